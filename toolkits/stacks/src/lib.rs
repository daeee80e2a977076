//! What the agent can see of threads: stacks

pub mod unwind;
