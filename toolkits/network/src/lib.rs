//! What the agent can see of the network: sockets
