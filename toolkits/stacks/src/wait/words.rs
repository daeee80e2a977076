//! A wait in words, for people.

use agent_model::Text;

use super::{Descriptor, Lock, Wait};

/// Descriptors that are named; there may be thousands.
const NAMED: usize = 3;

impl Wait {
    /// The wait in words: `mutex 0x… held by 17`, `fd 5 pipe:[123]`, `2.5s`.
    pub fn words(&self) -> Text {
        let mut words = match (&self.futex, self.kind) {
            (Some(futex), _) => match &futex.lock {
                Some(lock) => lock_words(lock),
                None => format!("futex {}", futex.address),
            },
            (None, "child") => match self.child.map(|child| (child.which, child.pid)) {
                Some((which, Some(pid))) => format!("child {which} {pid}"),
                Some((which, None)) => format!("child {which}"),
                None => "child".to_owned(),
            },
            (None, "descriptor" | "file_lock") => {
                let mut names: Vec<String> = self.descriptors.iter().take(NAMED).map(descriptor_words).collect();
                let all = self.descriptor_count.unwrap_or(self.descriptors.len() as u64);
                if all > names.len() as u64 {
                    names.push(format!("{} more", all - names.len() as u64));
                }
                let kind = if self.kind == "file_lock" { "lock on " } else { "" };
                format!("{kind}{}", names.join(", "))
            }
            (None, "path") => self.path.as_ref().map_or_else(|| "path".to_owned(), |path| format!("path {path}")),
            (None, kind) => kind.replace('_', " "),
        };
        if let Some(id) = self.ipc_id {
            words.push_str(&format!(" {id}"));
        }
        if let Some(timeout) = self.timeout {
            let (seconds, below) = (timeout.time_us / 1_000_000, timeout.time_us % 1_000_000 / 1000);
            let until = if timeout.absolute { "until" } else { "for" };
            words.push_str(&format!(", {until} {seconds}.{below:03}s"));
        }
        // All of it is escaped already, and only once.
        Text::from_bytes(&agent_model::text::unescape(&words))
    }
}

fn lock_words(lock: &Lock) -> String {
    let kind = lock.kind.replace('_', " ");
    let wants = lock.wants.map_or_else(String::new, |wants| format!(" to {wants}"));
    let owner = match (&lock.owner, lock.kind) {
        (Some(owner), "thread") => return format!("end of thread {} {}", owner.tid, owner.name),
        (Some(owner), _) => format!(" held by {} {}", owner.tid, owner.name),
        (None, _) => lock.readers.map_or_else(String::new, |count| format!(" held by {count} readers")),
    };
    format!("{kind} {}{wants}{owner}", lock.address)
}

fn descriptor_words(descriptor: &Descriptor) -> String {
    let mut words = format!("fd {}", descriptor.fd);
    let socket = descriptor.socket.as_ref().and_then(|socket| serde_json::to_value(socket).ok());
    if let Some(socket) = socket {
        for key in ["protocol", "state", "path", "abstract_name"] {
            if let Some(text) = socket[key].as_str() {
                words.push_str(&format!(" {text}"));
            }
        }
        for (address, port, arrow) in [("local_address", "local_port", " "), ("remote_address", "remote_port", " -> ")]
        {
            if let Some(address) = socket[address].as_str() {
                words.push_str(&format!("{arrow}{address}:{}", socket[port]));
            }
        }
    } else if let Some(target) = &descriptor.target {
        words.push_str(&format!(" {target}"));
    }
    words
}
