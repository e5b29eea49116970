//! Network namespaces: made and named as `ip netns` does, entered only by threads of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::Error;
use super::names::{self, Change};
use crate::plan::state::Namespace;

/// Where named namespaces are.
pub const FOLDER: &str = "/run/netns";

/// The calling thread's.
pub(super) const SELF: &str = "/proc/thread-self/ns/net";

/// The file of a namespace; the node's is the one this process lives in.
#[must_use]
pub fn path(namespace: &Namespace) -> PathBuf {
    match namespace {
        Namespace::Node => PathBuf::from("/proc/self/ns/net"),
        Namespace::Named(name) => Path::new(FOLDER).join(name),
    }
}

/// Opens a namespace.
///
/// # Errors
/// When it is not there.
pub fn open(namespace: &Namespace) -> Result<File, Error> {
    let path = path(namespace);
    File::open(&path).map_err(|source| Error::NoNamespace {
        namespace: namespace.clone(),
        path,
        source,
    })
}

/// Makes this process live in another namespace: it plays the node that is that namespace. Must
/// be called before any thread is started.
///
/// # Errors
/// When the namespace is not there or may not be entered.
pub fn enter(name: &str) -> Result<(), Error> {
    let namespace = Namespace::Named(name.to_owned());
    let path = if name.contains('/') {
        PathBuf::from(name)
    } else {
        path(&namespace)
    };
    let file = File::open(&path).map_err(|source| Error::NoNamespace {
        namespace: namespace.clone(),
        path,
        source,
    })?;
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|source| Error::Namespace {
        action: "enter",
        namespace,
        source,
    })
}

/// Runs `work` on a thread of its own inside a namespace. The thread ends with the work, so no
/// other task ever finds itself in a foreign namespace.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn run_in<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    if *namespace == Namespace::Node {
        return Ok(work()); // Every thread of this process lives there.
    }
    let file = open(namespace)?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|source| Error::Namespace {
                action: "enter",
                namespace: namespace.clone(),
                source,
            })?;
            Ok(work())
        });
        thread
            .join()
            .map_err(|_| Error::Thread(namespace.clone()))?
    })
}

/// What names a namespace for the data plane.
///
/// # Errors
/// When it is not there.
pub fn identity(namespace: &Namespace) -> Result<(u64, u32), Error> {
    let inode = inode(namespace)?;
    let cookie = run_in(namespace, cookie)?.map_err(|source| Error::Namespace {
        action: "identify",
        namespace: namespace.clone(),
        source,
    })?;
    Ok((cookie, inode as u32))
}

/// The number of a namespace among those that are alive.
///
/// # Errors
/// When it is not there.
pub fn inode(namespace: &Namespace) -> Result<u64, Error> {
    let metadata = open(namespace)?.metadata();
    let metadata = metadata.map_err(|source| Error::NoNamespace {
        namespace: namespace.clone(),
        path: path(namespace),
        source,
    })?;
    Ok(metadata.ino())
}

/// `SO_NETNS_COOKIE` of the calling thread's namespace: unique until the next boot.
fn cookie() -> Result<u64, nix::Error> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to live variables of the sizes the option asks for.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    nix::Error::result(result).map(|_| cookie)
}

/// Names of all named namespaces, in order.
///
/// # Errors
/// When the folder cannot be read.
pub fn list() -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(FOLDER) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(Error::File {
                action: "cannot read",
                path: FOLDER.into(),
                source,
            });
        }
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// `PROC_PID_INIT_INO`: whoever lives in this one sees every process of the machine.
const EVERY_PROCESS: u64 = 0xefff_fffc;

/// Every namespace of the machine that has a name, a mount or a thread, by cookie, with the name or
/// file by which it is entered; `None` where not every process can be seen.
///
/// # Errors
/// When one cannot be entered.
pub fn alive() -> Result<Option<BTreeMap<u64, String>>, Error> {
    let own = fs::metadata("/proc/self/ns/pid").map(|found| found.ino());
    if !own.is_ok_and(|number| number == EVERY_PROCESS) {
        return Ok(None);
    }
    let list_of = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let is_process = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.bytes().all(|byte| byte.is_ascii_digit())
    };
    let named = list()?;
    let processes = list_of(Path::new("/proc")).map(|entry| entry.path());
    let threads = processes.filter(is_process).flat_map(|process| {
        let threads = list_of(&process.join("task")).map(|task| task.path().join("ns/net"));
        threads.collect::<Vec<_>>()
    });
    let threads = threads.map(|path| path.display().to_string());
    let mut seen = BTreeSet::new();
    let mut alive = BTreeMap::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mounted(&mounts).map(ToOwned::to_owned);
    for name in named.into_iter().chain(mounted).chain(threads) {
        let namespace = Namespace::Named(name.clone());
        // It may have ended since the list was read.
        let Ok(number) = inode(&namespace) else {
            continue;
        };
        if !is_stub(&namespace) && seen.insert(number) {
            match identity(&namespace) {
                Ok((cookie, _)) => drop(alive.insert(cookie, name)),
                Err(Error::NoNamespace { .. }) => drop(seen.remove(&number)),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Some(alive))
}

/// Where namespaces are mounted (proc_pid_mountinfo(5)): container engines have folders of their own
/// for them.
fn mounted(mountinfo: &str) -> impl Iterator<Item = &str> {
    mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        root.starts_with("net:[").then_some(point)
    })
}

/// Makes a named namespace the way `ip netns add` does, or [has it made](names).
///
/// # Errors
/// When it cannot be made.
pub fn add(namespace: &Namespace) -> Result<(), Error> {
    if let Some(done) = names::by_others(Change::Add, namespace) {
        return done;
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|source| Error::Namespace {
                action: "make",
                namespace: namespace.clone(),
                source,
            })?;
            let path = Path::new(SELF);
            let file = File::open(path).map_err(|source| Error::File {
                action: "cannot open",
                path: path.to_owned(),
                source,
            })?;
            name(namespace, file.as_fd())
        });
        thread
            .join()
            .map_err(|_| Error::Thread(namespace.clone()))?
    })
}

/// Gives a namespace its name.
///
/// # Errors
/// When it is no network namespace, or cannot be named.
pub(super) fn name(namespace: &Namespace, made: BorrowedFd<'_>) -> Result<(), Error> {
    let fail = |action| {
        let namespace = namespace.clone();
        move |source| Error::Namespace {
            action,
            namespace,
            source,
        }
    };
    // NS_GET_NSTYPE of <linux/nsfs.h>: what is no namespace does not know it.
    // SAFETY: the request takes no argument.
    let kind = unsafe { libc::ioctl(made.as_raw_fd(), 0xb703) };
    if kind != libc::CLONE_NEWNET {
        return Err(Error::NotANamespace {
            namespace: namespace.clone(),
        });
    }
    share_folder().map_err(fail("share the folder of"))?;
    let path = path(namespace);
    match File::create_new(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::File {
                action: "cannot make",
                path,
                source: error,
            });
        }
        _ => {}
    }
    let (source, none) = (format!("/proc/self/fd/{}", made.as_raw_fd()), None::<&str>);
    mount(Some(source.as_str()), &path, none, MsFlags::MS_BIND, none).map_err(fail("name"))
}

/// Removes the name of a namespace; it goes when nothing lives in it any more.
///
/// # Errors
/// When it cannot be removed. One that is not there is fine.
pub fn delete(namespace: &Namespace) -> Result<(), Error> {
    if let Some(done) = names::by_others(Change::Delete, namespace) {
        return done;
    }
    let path = path(namespace);
    // A plain file left by a crash is no mount point.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::File {
            action: "cannot remove",
            path,
            source: error,
        }),
        _ => Ok(()),
    }
}

/// The name is that of a namespace.
pub(super) fn is_there(namespace: &Namespace) -> bool {
    path(namespace).exists() && !is_stub(namespace)
}

/// A file that is no namespace: a crash came between its creation and the mount.
#[must_use]
pub fn is_stub(namespace: &Namespace) -> bool {
    use nix::sys::statfs::{NSFS_MAGIC, statfs};
    statfs(&path(namespace)).is_ok_and(|stat| stat.filesystem_type() != NSFS_MAGIC)
}

/// Mounts made in the folder must be seen in every mount namespace, as iproute2 does it.
fn share_folder() -> Result<(), nix::Error> {
    fs::create_dir_all(FOLDER)
        .map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(Some(""), FOLDER, Some("none"), flags, None::<&str>)
    };
    match share() {
        Err(nix::Error::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(FOLDER), FOLDER, Some("none"), flags, None::<&str>)?;
            share()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::mounted;

    #[test]
    fn namespaces_are_known_by_their_mounts() {
        let mounts = "49 23 0:39 / /sys/fs/bpf rw,relatime - bpf bpf rw,mode=700\n\
                      61 24 0:4 net:[4026532210] /run/docker/netns/1 rw shared:9 - nsfs nsfs rw\n\
                      62 24 0:4 mnt:[4026532211] /run/snapd/ns/x rw - nsfs nsfs rw\n";
        let points: Vec<&str> = mounted(mounts).collect();
        assert_eq!(points, ["/run/docker/netns/1"]);
    }
}
