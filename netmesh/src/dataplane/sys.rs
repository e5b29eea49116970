//! The `bpf(2)` calls the library has no safe form of: links that must be fds, what a link hangs
//! on, whole hash maps at once, an array mapped into memory.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use aya::Pod;
use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_type, bpf_prog_info,
};

/// What a link is attached to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkFacts {
    /// Interface index; 0 when the device is gone or the link was detached.
    pub(super) ifindex: u32,
    /// Id of the program behind it.
    pub(super) program: u32,
    /// Its own.
    pub(super) id: u32,
}

/// Opens a pinned object.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins an object.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = object.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Attaches a program to a device by a link. There is no fallback to netlink: what cannot be
/// pinned would not outlive this process.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    ifindex: u32,
    kind: bpf_attach_type,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = kind as u32;
    attr.link_create.flags = flags;
    let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts another program behind a link, atomically.
pub(super) fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once, whoever else holds it open.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// The id of the program behind a link.
pub(super) fn link_program(link: BorrowedFd<'_>) -> io::Result<u32> {
    link_info(link).map(|info| info.prog_id)
}

/// Opens a program by its id.
pub(super) fn program(id: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    let fd = bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The tag of a program: the kernel's hash over its instructions.
pub(super) fn program_tag(program: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: all zero is a value of this plain kernel structure.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    read_info(program, &mut info)?;
    Ok(u64::from_be_bytes(info.tag))
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<bpf_link_info> {
    // SAFETY: all zero is a value of this plain kernel structure.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    read_info(link, &mut info)?;
    Ok(info)
}

/// Has the kernel describe an object; `info` is the structure of its kind, all zero.
fn read_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = zeroed();
    attr.info.bpf_fd = object.as_raw_fd() as u32;
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = std::ptr::from_mut(info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// What an XDP or TCX link is attached to.
pub(super) fn link_facts(link: BorrowedFd<'_>) -> io::Result<LinkFacts> {
    let info = link_info(link)?;
    let ifindex = match info.type_ {
        // SAFETY: the type says which member the kernel has filled.
        kind if kind == bpf_link_type::BPF_LINK_TYPE_XDP as u32 => unsafe {
            info.__bindgen_anon_1.xdp.ifindex
        },
        // SAFETY: as above.
        kind if kind == bpf_link_type::BPF_LINK_TYPE_TCX as u32 => unsafe {
            info.__bindgen_anon_1.tcx.ifindex
        },
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(LinkFacts {
        ifindex,
        program: info.prog_id,
        id: info.id,
    })
}

/// Reads a hash map bucket by bucket: unlike a walk from key to key it neither restarts nor
/// misses entries that stay when others are removed meanwhile.
pub(super) fn read_hash<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    mut entry: impl FnMut(K, V),
) -> io::Result<()> {
    let mut room: usize = 1024;
    let mut position = [0_u32; 2];
    let mut started = false;
    loop {
        let mut keys: Vec<K> = Vec::with_capacity(room);
        let mut values: Vec<V> = Vec::with_capacity(room);
        let mut next = [0_u32; 2];
        let mut attr = zeroed();
        if started {
            attr.batch.in_batch = (&raw const position) as u64;
        }
        attr.batch.out_batch = (&raw mut next) as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = room as u32;
        attr.batch.map_fd = map.as_raw_fd() as u32;
        let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
        let last = match result {
            Ok(_) => false,
            Err(error) => match error.raw_os_error() {
                // The map has been read to its end.
                Some(libc::ENOENT) => true,
                // One bucket alone holds more than there is room for.
                Some(libc::ENOSPC) => {
                    room *= 2;
                    continue;
                }
                Some(libc::EINTR | libc::EAGAIN) => continue,
                _ => return Err(error),
            },
        };
        // SAFETY: the call has filled in how many entries it wrote.
        let found = (unsafe { attr.batch.count } as usize).min(room);
        // SAFETY: the kernel has written this many keys and values, and both are `Pod`.
        unsafe {
            keys.set_len(found);
            values.set_len(found);
        }
        for (key, value) in keys.into_iter().zip(values) {
            entry(key, value);
        }
        if last {
            return Ok(());
        }
        position = next;
        started = true;
    }
}

/// An array of maps that are like this one.
pub(super) fn array_of_maps(like: BorrowedFd<'_>, entries: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: the member for making maps, all of whose fields are plain numbers.
    let make = unsafe { &mut attr.__bindgen_anon_1 };
    make.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
    make.key_size = size_of::<u32>() as u32;
    make.value_size = size_of::<u32>() as u32;
    make.max_entries = entries;
    make.inner_map_fd = like.as_raw_fd() as u32;
    let fd = bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Writes an element of a map.
pub(super) fn put<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Writes many elements of a map, in order.
pub(super) fn put_all<K: Pod, V: Pod>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> io::Result<()> {
    let keys: Vec<K> = entries.iter().map(|(key, _)| *key).collect();
    let values: Vec<V> = entries.iter().map(|(_, value)| *value).collect();
    let mut done = 0;
    let mut patience = 5;
    while done < entries.len() {
        let mut attr = zeroed();
        attr.batch.keys = keys[done..].as_ptr() as u64;
        attr.batch.values = values[done..].as_ptr() as u64;
        attr.batch.count = (entries.len() - done) as u32;
        attr.batch.map_fd = map.as_raw_fd() as u32;
        let result = bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr);
        // SAFETY: the call has filled in how many entries it has written.
        done += unsafe { attr.batch.count } as usize;
        match result {
            Ok(_) => {}
            // A trie allocates without waiting; the memory is there a moment later.
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && patience > 0 => {
                patience -= 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// An array map (`BPF_F_MMAPABLE`) in this process's memory, as 8-byte words.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory belongs to the map, not to a thread, and is only touched by atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` bytes of an array map.
    pub(super) fn new(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; a map that is
        // shorter than `bytes` is refused with EINVAL.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        Self::of(base, bytes)
    }

    /// Zeroed memory of this process alone, for arrays to be put in its place.
    pub(super) fn reserve(bytes: usize) -> io::Result<Self> {
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        Self::of(base, bytes)
    }

    /// Puts `bytes` bytes of an array map in the place of what is there at `offset`, both whole
    /// pages.
    pub(super) fn place(&self, map: BorrowedFd<'_>, offset: usize, bytes: usize) -> io::Result<()> {
        let end = offset.checked_add(bytes);
        if end.is_none_or(|end| end > self.words * size_of::<u64>()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: inside the mapping, which stays readable and writable memory of this size; what is
        // read there before and after are words.
        let placed = unsafe {
            libc::mmap(
                self.base.as_ptr().byte_add(offset).cast(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                map.as_raw_fd(),
                0,
            )
        };
        Self::check(placed)
    }

    fn of(base: *mut libc::c_void, bytes: usize) -> io::Result<Self> {
        Self::check(base)?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        let words = bytes / size_of::<u64>();
        Ok(Self { base, words })
    }

    fn check(base: *mut libc::c_void) -> io::Result<()> {
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped when it was made, page aligned, alive until drop; all access is atomic, as is
        // the kernel side's single 8-byte store.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped when it was made.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * size_of::<u64>()) };
    }
}

/// `SO_NETNS_COOKIE` of the calling thread's network namespace.
pub(super) fn namespace_cookie() -> io::Result<u64> {
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
    nix::Error::result(result)?;
    Ok(cookie)
}

/// An exclusive lock on a folder, released when the file is dropped.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    file.lock()?;
    Ok(file)
}

/// The same, but does not wait.
pub(super) fn try_lock(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    file.try_lock().map_err(io::Error::from)?;
    Ok(file)
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole, initialised structure of the size passed; the pointers the
    // callers put into it outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            &raw mut *attr,
            size_of::<bpf_attr>(),
        )
    };
    match i32::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: all zero is a value of this plain kernel structure.
    unsafe { std::mem::zeroed() }
}
