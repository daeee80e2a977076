//! A channel between processes of one container: a unix socket of whole messages (SOCK_SEQPACKET) with
//! an abstract name, since the root may be read-only.
//!
//! The name is visible to the whole network namespace, the target included. Nothing that comes through
//! a channel may be believed before the other end has proved that it knows a secret.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::allocator;

/// The longest message, in bytes.
pub const LONGEST_MESSAGE: usize = 64 << 10;

/// So many files go with one message at the most (unix(7), SCM_RIGHTS; the kernel's own limit is 253).
pub const MOST_FILES: usize = 64;

/// Takes connections.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    socket: ManuallyDrop<OwnedFd>,
    /// Whether write(2) is used, which the filter of a confined command lets through for this one file; who
    /// takes connections does not know their numbers before.
    is_ours: bool,
}

/// Who is at the other end (SO_PEERCRED), as it was when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process ID in our pid namespace.
    pub pid: u32,
    /// Its user ID.
    pub uid: u32,
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn address(name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new_abstract_name(name.as_bytes())?)
}

/// Waits until `file` is ready for `what`; false when it is not by then.
fn wait(file: BorrowedFd<'_>, what: PollFlags, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut [PollFd::from_borrowed_fd(file, what)], Some(&left)) {
            Err(Errno::INTR) => {}
            Ok(count) => return Ok(count > 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

impl Listener {
    /// Takes connections to the abstract name `name`.
    ///
    /// # Errors
    ///
    /// When somebody else has the name.
    pub fn bind(name: &str) -> io::Result<Self> {
        let socket = socket()?;
        rustix::net::bind(&socket, &address(name)?)?;
        rustix::net::listen(&socket, 64)?;
        Ok(Self(socket))
    }

    /// Takes the next connection, if there is one now.
    ///
    /// # Errors
    ///
    /// When the kernel gives none: too many files are open.
    pub fn accept(&self) -> io::Result<Option<Channel>> {
        match rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => Ok(Some(Channel { socket: ManuallyDrop::new(socket), is_ours: false })),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // What may be written to is never closed: its number must not become another file's.
        if !self.is_ours {
            // SAFETY: it is dropped here, once, and not used thereafter.
            unsafe { ManuallyDrop::drop(&mut self.socket) };
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Channel {
    /// Connects to the abstract name `name`, within `patience`. It may be written to after the command was confined.
    ///
    /// # Errors
    ///
    /// When nobody takes connections there ([`ErrorKind::ConnectionRefused`]), or so many wait for it that there is no
    /// room ([`ErrorKind::TimedOut`]).
    pub fn connect(name: &str, patience: Duration) -> io::Result<Self> {
        let until = Instant::now() + patience;
        let socket = socket()?;
        crate::own::note(agent_session::Access::Socket, "unix:@agent");
        let address = address(name)?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                // The queue is full, and poll(2) does not tell when it is not any more (unix(7)).
                Err(Errno::AGAIN) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
                Err(Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        crate::confine::may_write(&socket);
        Ok(Self { socket: ManuallyDrop::new(socket), is_ours: true })
    }

    /// Sends one message, within `patience`.
    ///
    /// # Errors
    ///
    /// When the other end is gone or does not take it, and of one longer than [`LONGEST_MESSAGE`].
    pub fn send(&self, message: &[u8], patience: Duration) -> io::Result<()> {
        if message.len() > LONGEST_MESSAGE {
            return Err(ErrorKind::InvalidInput.into());
        }
        let until = Instant::now() + patience;
        loop {
            let sent = match self.is_ours {
                true => rustix::io::write(&*self.socket, message),
                false => rustix::net::send(&*self.socket, message, SendFlags::NOSIGNAL),
            };
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if wait(self.as_fd(), PollFlags::OUT, until)? => {}
                Err(Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The next message; `None` when the other end is gone. `patience` is how long it is waited for,
    /// without one for as long as it takes.
    ///
    /// # Errors
    ///
    /// When none came in time ([`ErrorKind::TimedOut`]).
    pub fn receive(&self, patience: Option<Duration>) -> io::Result<Option<Vec<u8>>> {
        let mut until = Instant::now() + patience.unwrap_or(Duration::from_secs(3600));
        let mut message = vec![0; LONGEST_MESSAGE];
        loop {
            match rustix::io::read(&*self.socket, &mut message) {
                Ok(0) => return Ok(None),
                // The other end has gone and left something of ours unread. The kernel says so once, and before it gives out
                // what came from there until then (unix_release_sock, __skb_try_recv_datagram).
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Ok(length) => {
                    message.truncate(length);
                    return Ok(Some(message));
                }
                Err(Errno::AGAIN) if wait(self.as_fd(), PollFlags::IN, until)? => {}
                Err(Errno::AGAIN) if patience.is_none() => until += Duration::from_secs(3600),
                Err(Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sends one message and `files` with it, [`MOST_FILES`] at the most: the other end may use them as we may. For the end
    /// that takes connections.
    ///
    /// # Errors
    ///
    /// As [`Channel::send`].
    pub fn send_files(&self, message: &[u8], files: &[BorrowedFd<'_>], patience: Duration) -> io::Result<()> {
        if message.len() > LONGEST_MESSAGE {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let until = Instant::now() + patience;
        loop {
            match rustix::net::sendmsg(&*self.socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if wait(self.as_fd(), PollFlags::OUT, until)? => {}
                Err(Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The next message and the files that came with it; `None` when the other end is gone. For a command that is not
    /// confined yet: from a stranger none are taken.
    ///
    /// # Errors
    ///
    /// As [`Channel::receive`].
    pub fn receive_files(&self, patience: Duration) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let until = Instant::now() + patience;
        let mut message = vec![0; LONGEST_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut message)];
            match rustix::net::recvmsg(&*self.socket, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) if received.bytes == 0 => return Ok(None),
                Ok(received) => {
                    let files = control.drain().filter_map(|with| match with {
                        RecvAncillaryMessage::ScmRights(files) => Some(files),
                        _ => None,
                    });
                    let files = files.flatten().collect();
                    message.truncate(received.bytes);
                    return Ok(Some((message, files)));
                }
                // As in `receive`.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) if wait(self.as_fd(), PollFlags::IN, until)? => {}
                Err(Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sends `messages` where we have to end without another word: there is no memory. For the end that has connected.
    pub fn last_words(&self, messages: Vec<Vec<u8>>) {
        use std::os::fd::AsRawFd as _;
        allocator::last_words(allocator::Last::Records, self.socket.as_raw_fd(), messages);
    }

    /// The same channel, for another thread.
    ///
    /// # Errors
    ///
    /// When too many files are open.
    pub fn share(&self) -> io::Result<Self> {
        Ok(Self { socket: ManuallyDrop::new(self.socket.try_clone()?), is_ours: self.is_ours })
    }

    /// Ends the channel for both ends.
    pub fn end(&self) {
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
    }

    /// Who is at the other end; `None` where the kernel does not say.
    pub fn peer(&self) -> Option<Peer> {
        let peer = rustix::net::sockopt::socket_peercred(&*self.socket).ok()?;
        Some(Peer { pid: peer.pid.as_raw_nonzero().get().cast_unsigned(), uid: peer.uid.as_raw() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// Two ends of a channel: who takes connections, and who has connected.
    fn pair(name: &str) -> (Channel, Channel) {
        let name = format!("agent-channel-{name}-{}", std::process::id());
        let listener = Listener::bind(&name).expect("a name");
        let theirs = Channel::connect(&name, SOON).expect("connects");
        (listener.accept().expect("accepts").expect("a connection"), theirs)
    }

    /// As when the program ends.
    fn close(channel: &mut Channel) {
        // SAFETY: it is dropped once, and not used thereafter; a channel of one who has connected does not drop it.
        unsafe { ManuallyDrop::drop(&mut channel.socket) };
    }

    #[test]
    fn last_words_arrive_from_an_end_that_left_an_answer_unread() {
        let (ours, mut theirs) = pair("last");
        theirs.send(b"first", SOON).expect("sends");
        assert_eq!(ours.receive(Some(SOON)).expect("receives"), Some(b"first".to_vec()));
        ours.send(b"an answer", SOON).expect("sends");
        theirs.send(b"last", SOON).expect("sends");
        close(&mut theirs);
        assert_eq!(ours.receive(Some(SOON)).expect("receives"), Some(b"last".to_vec()));
        assert_eq!(ours.receive(Some(SOON)).expect("receives"), None);
    }

    #[test]
    fn files_arrive_from_an_end_that_left_a_message_unread() {
        let (ours, theirs) = pair("files");
        theirs.send(b"asked", SOON).expect("sends");
        let file = std::fs::File::open("/dev/null").expect("a file");
        ours.send_files(b"given", &[file.as_fd()], SOON).expect("sends");
        drop(ours);
        let (message, files) = theirs.receive_files(SOON).expect("receives").expect("a message");
        assert_eq!((message.as_slice(), files.len()), (&b"given"[..], 1));
        assert!(theirs.receive_files(SOON).expect("receives").is_none());
    }
}
