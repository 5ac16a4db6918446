//! A pod's network namespace, entered for the length of a synchronous closure.
#![allow(unsafe_code, reason = "SO_NETNS_COOKIE has no safe wrapper")]

use std::{
    cell::OnceCell,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process,
    rc::Rc,
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

/// An open network namespace: it lives as long as this.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// A namespace that can not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// The path is gone or forbidden.
    #[error("can not open the network namespace {path:?}: is the pod gone?")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// `setns` refused.
    #[error("can not enter the network namespace {path:?}: is CAP_SYS_ADMIN missing, or the path no network namespace?")]
    Enter {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// `SO_NETNS_COOKIE` refused.
    #[error("can not read the cookie of the network namespace {path:?}: is the kernel older than 5.14?")]
    Cookie {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Netns {
    /// Opens `/proc/<pid>/ns/net`, `/run/netns/<name>` or the like.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, NetnsError> {
        let path = path.into();
        match File::open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(NetnsError::Open { path, source }),
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` inside the namespace, on this thread, and returns to the namespace that the thread was in, also
    /// when `work` panics. Aborts the process when there is no way back: a thread in a pod's namespace would serve
    /// others from there.
    ///
    /// Open sockets stay in the namespace where they were made, so `socket()` is all that has to happen inside.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let home = home()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetnsError::Enter { path: self.path.clone(), source: errno.into() })?;
        let _way_back = WayBack { home };
        Ok(work())
    }

    /// Never used twice while the machine runs, unlike the inode. Costs a socket; ask once.
    pub fn cookie(&self) -> Result<u64, NetnsError> {
        self.run(|| netns_cookie(&Socket::new(Domain::IPV4, Type::DGRAM, None)?))?
            .map_err(|source| NetnsError::Cookie { path: self.path.clone(), source })
    }

    /// Its inode, as `ls -L -i` shows it.
    pub fn inode(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.ino())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The namespace that this thread lives in, opened once: nothing but [`Netns::run`] ever changes it, and that changes it
/// back.
fn home() -> Result<Rc<File>, NetnsError> {
    thread_local! {
        static HOME: OnceCell<Rc<File>> = const { OnceCell::new() };
    }
    HOME.with(|cell| {
        if let Some(home) = cell.get() {
            return Ok(home.clone());
        }
        let path = "/proc/thread-self/ns/net";
        let home = File::open(path).map_err(|source| NetnsError::Open { path: path.into(), source })?;
        Ok(cell.get_or_init(|| Rc::new(home)).clone())
    })
}

struct WayBack {
    home: Rc<File>,
}

impl Drop for WayBack {
    fn drop(&mut self) {
        if let Err(error) = setns(&*self.home, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "no way back from a pod's network namespace: aborting");
            process::abort();
        }
    }
}

/// `SO_NETNS_COOKIE` (5.14).
fn netns_cookie(socket: &Socket) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live variables, and the length is that of the value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
