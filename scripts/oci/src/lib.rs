//! Makes the agent's image from its binary: an OCI image layout in a tar archive, without a container engine, without
//! root and without setcap(8).
//!
//! The functions go from bytes to bytes, and the same bytes in give the same bytes out. What the image holds:
//!
//! | part | content |
//! | --- | --- |
//! | layer | `/bin` and `/bin/agent`, owner 0:0, mode 755, file capabilities `=p` |
//! | config | user 65532:65532, entrypoint `/bin/agent`, `PATH=/bin`, labels |
//! | manifest, index | annotations; the names by which podman and containerd load it |

mod elf;
mod image;
mod layer;

pub use elf::{BinaryError, architecture};
pub use image::{Archive, Description, ImageError, archive};
pub use layer::{ALL_PERMITTED, CAPABILITY_RECORD, layer};
