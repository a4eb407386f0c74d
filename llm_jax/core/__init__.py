"""The vocabulary of the house: types, model, names, plug-ins, errors. Imports nothing else of ours."""
