"""What a completion is worth: plug-ins whose `build(*, knobs)` returns a core.reward.Reward, computed in a train step.

A reward sees tokens and the fields of the batch that it names (the known answer), so that it runs where the rollouts
are; 'function' leaves the device and asks any Python function of the text.
"""
