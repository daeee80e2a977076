//! The only door to the kernel and to the target.
//!
//! A collector gets one value, the [`Run`], and does all that it does to the
//! world through it. Each open, read, link, stop and socket is thereby checked
//! against the session, counted and recorded in one place, and what is denied is
//! explained in one place ([`gate`]).
//!
//! The parsers in [`parse`] are pure functions from bytes to types. The rest of
//! this crate has no opinion on what is read: that is the toolkits' subject.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // this is the crate that opens

pub mod allocator;
pub mod capability;
pub mod capture;
pub mod cgroup;
pub mod channel;
pub mod child;
pub mod clock;
pub mod collector;
pub mod confine;
pub mod descriptors;
pub mod failure;
pub mod flags;
pub mod format;
pub mod gate;
mod headroom;
pub mod hidepid;
pub mod interrupt;
pub mod kcmp;
pub mod keep;
pub mod kept;
pub mod mapped_file;
mod memo;
pub mod memory;
pub mod own;
pub mod own_file;
pub mod pagemap;
pub mod parallel;
pub mod parse;
mod patience;
pub mod probe;
pub mod proc;
pub mod rights;
pub mod root;
pub mod root_list;
pub mod run;
pub mod sock_diag;
pub mod stop;
pub mod target;
#[cfg(debug_assertions)]
pub mod violate;
pub mod wait;
mod walk;
pub mod watch;

pub use capability::{Capabilities, Capability};
pub use cgroup::CgroupDirectory;
pub use collector::{Answer, Collector, Command, NoOptions, command};
pub use confine::Need;
pub use failure::{Cause, Failure};
pub use flags::{OpenFlags, open_flags};
pub use format::{Enveloped, ExtraFormat};
pub use keep::{Keep, Kept};
pub use parallel::in_halves;
pub use proc::{Directory, Process};
pub use run::{Plan, Run};
pub use rustix::io::Errno;
pub use target::{Selector, TargetError};
pub use watch::Watch;

/// The size of a page, in bytes.
pub fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// Clock ticks a second, in which proc(5) counts CPU time.
pub fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}
