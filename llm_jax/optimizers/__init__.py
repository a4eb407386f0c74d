"""Update rules, schedules and masks by parameter name: gradients in, updates out. `chain.build` puts them together."""
