//! The calls of bpf(2) that the loader library has not, or has only behind `&mut`: elements by borrowed descriptor
//! (the data path shares it), links with an order, queries.
//!
//! Commands, attribute layouts and attach types are those of `include/uapi/linux/bpf.h`.
#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::Pod;

const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

const F_BEFORE: u32 = 1 << 3;
const QUERY_EFFECTIVE: u32 = 1;

/// `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum AttachType {
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    GetPeerName4 = 29,
    GetPeerName6 = 30,
    SkLookup = 36,
}

/// `bpf_attr` for commands on elements.
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value_or_next_key: u64,
    flags: u64,
}

/// The value of a key, `None` when there is no such entry.
pub(super) fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let mut attr = element(map, Some(key), value.as_mut_ptr() as u64);
    match call(MAP_LOOKUP_ELEM, &mut attr) {
        // SAFETY: the call succeeded, so the kernel wrote the value; every map is opened with its own value type.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Inserts or replaces.
pub(super) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    call(MAP_UPDATE_ELEM, &mut element(map, Some(key), std::ptr::from_ref(value) as u64)).map(drop)
}

/// Deletes; `false` when there was no such entry.
pub(super) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    match call(MAP_DELETE_ELEM, &mut element(map, Some(key), 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key after `key`, the first one after `None`; `None` at the end. Starts again when `key` was deleted meanwhile.
pub(super) fn next_key<K: Pod>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next = MaybeUninit::<K>::uninit();
    match call(MAP_GET_NEXT_KEY, &mut element(map, key, next.as_mut_ptr() as u64)) {
        // SAFETY: the call succeeded, so the kernel wrote the key; every map is opened with its own key type.
        Ok(_) => Ok(Some(unsafe { next.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn element<K>(map: BorrowedFd<'_>, key: Option<&K>, value_or_next_key: u64) -> Element {
    Element { map_fd: raw(map), pad: 0, key: key.map_or(0, |key| std::ptr::from_ref(key) as u64), value_or_next_key, flags: 0 }
}

#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Gives a map, program or link a name on a BPF file system.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    call(OBJ_PIN, &mut Object { pathname: path.as_ptr() as u64, bpf_fd: raw(object), file_flags: 0 }).map(drop)
}

/// Opens what is pinned; `None` when nothing is.
pub(super) fn open_pin(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = c_path(path)?;
    match call_fd(OBJ_GET, &mut Object { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 }) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// Attaches in front of what is there, where the kernel knows an order (6.17), else behind it.
pub(super) fn attach_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, at: AttachType) -> io::Result<OwnedFd> {
    match attach(program, cgroup, at, F_BEFORE) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => attach(program, cgroup, at, 0),
        result => result,
    }
}

/// Attaches an `sk_lookup` program to a network namespace.
pub(super) fn attach_netns(program: BorrowedFd<'_>, netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    attach(program, netns, AttachType::SkLookup, 0)
}

fn attach(program: BorrowedFd<'_>, target: BorrowedFd<'_>, at: AttachType, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: raw(program),
        target_fd: raw(target),
        attach_type: at as u32,
        flags,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    call_fd(LINK_CREATE, &mut attr)
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Swaps the program of a link in place: no connection sees a gap.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate { link_fd: raw(link), new_prog_fd: raw(program), flags: 0, old_prog_fd: 0 };
    call(LINK_UPDATE, &mut attr).map(drop)
}

/// Ends a link now, whoever else still holds it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    call(LINK_DETACH, &mut raw(link)).map(drop)
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkTarget {
    /// The cgroup's id, which is the inode of its folder; 0 once it is gone.
    Cgroup(u64),
    /// The inode of the namespace; 0 once it is gone.
    Netns(u32),
    Other,
}

/// `struct bpf_link_info` as far as it concerns cgroups and namespaces.
#[derive(Default)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    target: u64,
    attach_type: u32,
    pad_end: u32,
}

/// What a link is attached to, and the id of its program.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<(LinkTarget, u32)> {
    const CGROUP: u32 = 3;
    const NETNS: u32 = 5;
    let mut info = LinkInfo::default();
    object_info(link, &mut info)?;
    let target = match info.kind {
        CGROUP => LinkTarget::Cgroup(info.target),
        // `netns_ino` is the first half of the union.
        NETNS => LinkTarget::Netns(u32::from_ne_bytes(info.target.to_ne_bytes()[..4].try_into().expect("four of eight"))),
        _ => LinkTarget::Other,
    };
    Ok((target, info.prog_id))
}

/// `struct bpf_prog_info` up to the name.
#[repr(C)]
struct ProgramInfo {
    before: [u64; 8],
    name: [u8; 16],
}

/// The name of a loaded program, as the kernel keeps it (15 bytes at most).
pub(super) fn program_name(id: u32) -> io::Result<String> {
    let mut by_id = [id, 0, 0];
    let program = call_fd(PROG_GET_FD_BY_ID, &mut by_id)?;
    let mut info = ProgramInfo { before: [0; 8], name: [0; 16] };
    object_info(std::os::fd::AsFd::as_fd(&program), &mut info)?;
    let end = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    Ok(String::from_utf8_lossy(&info.name[..end]).into_owned())
}

#[repr(C)]
struct ObjectInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = ObjectInfo { bpf_fd: raw(object), info_len: size_of::<T>() as u32, info: std::ptr::from_mut(info) as u64 };
    call(OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// As large as newer kernels may write back (`revision`).
#[derive(Default)]
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
    later: [u64; 8],
}

/// Ids of the programs that run for a cgroup at that point, in the order in which they run.
pub(super) fn effective_programs(cgroup: BorrowedFd<'_>, at: AttachType) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; 64];
    loop {
        let mut attr = Query {
            target_fd: raw(cgroup),
            attach_type: at as u32,
            flags: QUERY_EFFECTIVE,
            prog_ids: ids.as_mut_ptr() as u64,
            prog_cnt: ids.len() as u32,
            ..Query::default()
        };
        match call(PROG_QUERY, &mut attr) {
            Ok(_) => {
                ids.truncate(attr.prog_cnt as usize);
                return Ok(ids);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => ids.resize(attr.prog_cnt as usize * 2, 0),
            Err(error) => return Err(error),
        }
    }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// One bpf(2). `attr` is a prefix of `union bpf_attr`: the kernel takes what is missing as zero.
fn call<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is valid for its whole size, and every address in it is that of a live buffer of the caller, as
    // large as the command writes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn call_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: these commands return a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
