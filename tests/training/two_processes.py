"""One of two processes that train on one mesh until one of them is asked to stop; see test_checkpoint_processes.py.

`python two_processes.py PROCESS PORT DIR`; prints `step n` after every step, `stopped at n` at the end.
"""

import sys
import time

import jax

if __name__ == "__main__":
  process, port, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
  jax.distributed.initialize(f"127.0.0.1:{port}", 2, process, heartbeat_timeout_seconds=10, shutdown_timeout_seconds=15,
                             initialization_timeout=60)

  import jax.numpy as jnp
  from jax.sharding import AxisType, NamedSharding, PartitionSpec

  from llm_jax.training.checkpoint import Checkpoints
  from llm_jax.training.preemption import Preemption

  mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
  whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
  place = {"w": split, "key": whole, "step": whole}
  noise = lambda s: jax.random.normal(jax.random.fold_in(s["key"], s["step"]), (16, 32))
  start = jax.jit(lambda: {"w": jnp.zeros((16, 32)), "key": jax.random.key(1), "step": jnp.int32(0)},
                  out_shardings=place)
  update = jax.jit(lambda s: {**s, "w": s["w"] * 0.9 + noise(s), "step": s["step"] + 1},
                   out_shardings=place, donate_argnums=0)
  with Preemption() as preemption, Checkpoints(directory, keep=2) as checkpoints:
    resume = checkpoints.latest_good()
    state = start() if resume is None else checkpoints.restore(resume, start())[0]
    step = resume or 0
    print(f"resumed from {resume}", flush=True)
    while not preemption.should_stop(step) and step < 1000:
      state = update(state)
      step += 1
      if step % 5 == 0:
        checkpoints.save(step, state, {"step": step})
      checkpoints.check()
      print(f"step {step}", flush=True)
      time.sleep(0.02)
    checkpoints.save(step, state, {"step": step})
    checkpoints.wait()
    print(f"stopped at {step}", flush=True)
