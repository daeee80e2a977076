//! What the agent can see of memory: maps
