"""Where arrays live: the mesh, the rules from logical axes to mesh axes, hosts. Only here are mesh axes named."""
