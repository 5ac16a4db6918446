//! Loading, attaching, enrolling.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Map, MapError, MapInfo},
    programs::{Program, ProgramError},
};
use mesh_common::{
    kernel::{Address, ListenerKey, ListenerKind, Original, Pod, SocketMark, TokenKey, TupleKey, Usage},
    names::{
        self, ADDRESSES, LISTENERS, LOOKUP, PID_NAMESPACE_DEVICE, PID_NAMESPACE_INODE, PODS, PROBER_TASKS, PROBERS, SOCKETS,
        TOKENS, TUPLES, USAGE,
    },
};

use super::{
    AdoptedPod, AttachPoint, EbpfError, MapEntries, PidNamespace, PodCapture, Probers, ProgramAt, SocketMarks,
    pins::{self, Pins, PodPin},
    sys::{self, LinkTarget},
    table::Table,
    uid_hash,
};

/// Built by `cargo xtask build-ebpf`; `build.rs` says where it is.
static OBJECT: &[u8] = include_bytes_aligned!(env!("KEELSON_EBPF_OBJECT"));

/// The kernel programs and maps of one instance, attached and pinned.
///
/// Dropping it changes nothing in the kernel: capture goes on until [`Kernel::uninstall`]. Every method may be called
/// from any thread; calls that concern one pod must not overlap.
#[derive(Debug)]
pub struct Kernel {
    pins: Pins,
    cgroup: File,
    lookup_program: OwnedFd,
    marks: SocketMarks,
    pods: Table<u64, Pod>,
    usage: Table<u64, Usage>,
    tuples: Table<TupleKey, Original>,
    tokens: Table<TokenKey, u64>,
    addresses: Table<Address, u64>,
    probers: Table<u64, u32>,
    prober_tasks: Table<u32, u32>,
    listeners: Table<ListenerKey, RawFd>,
}

impl Kernel {
    /// Loads the programs, takes over what an earlier process of this instance pinned, and attaches the rest.
    ///
    /// A BPF file system is mounted at `bpffs` if none is there. `cgroup` is the cgroup2 root ([`super::cgroup2_root`]).
    /// Pods that are pinned stay captured throughout, and connections to them are refused until they are enrolled again
    /// with listeners of this process.
    pub fn open(bpffs: &Path, cgroup: &Path, instance: &str) -> Result<Self, EbpfError> {
        Self::open_numbering(bpffs, cgroup, instance, PidNamespace::First)
    }

    /// The same for a node that knows processes by the numbers of that namespace ([`Probers::processes`]).
    ///
    /// Another namespace than the machine's first one needs Linux 6.10.
    pub fn open_numbering(bpffs: &Path, cgroup: &Path, instance: &str, processes: PidNamespace) -> Result<Self, EbpfError> {
        let cgroup_path = cgroup;
        let cgroup = pins::open_cgroup2(cgroup_path)?;
        let pins = Pins::prepare(bpffs, instance)?;
        let mut object = load_object(&pins, processes)?;
        let lookup_program = load_program(&mut object, LOOKUP)?;
        let kernel = Self {
            lookup_program,
            marks: SocketMarks::new(map::<i32, SocketMark>(&object, SOCKETS)?),
            pods: table(&object, PODS)?,
            usage: table(&object, USAGE)?,
            tuples: table(&object, TUPLES)?,
            tokens: table(&object, TOKENS)?,
            addresses: table(&object, ADDRESSES)?,
            probers: table(&object, PROBERS)?,
            prober_tasks: table(&object, PROBER_TASKS)?,
            listeners: table(&object, LISTENERS)?,
            pins,
            cgroup,
        };
        // Loaded before the first is attached: a kernel that lacks something is left as it was.
        let programs = AttachPoint::ALL
            .into_iter()
            .map(|point| Ok((point, load_program(&mut object, point.program())?)))
            .collect::<Result<Vec<_>, EbpfError>>()?;
        for (point, program) in programs.iter().filter(|(point, _)| !point.is_writer()) {
            kernel.attach(*point, program.as_fd(), cgroup_path)?;
        }
        kernel.adopt_pods()?;
        for (point, program) in programs.iter().filter(|(point, _)| point.is_writer()) {
            kernel.attach(*point, program.as_fd(), cgroup_path)?;
        }
        Ok(kernel)
    }

    /// The data path's handle.
    pub fn marks(&self) -> SocketMarks {
        self.marks.clone()
    }

    /// Captures a pod, or replaces the listeners, ports and addresses of one that is captured.
    ///
    /// Inbound first, outbound last; a pod that was captured before is captured at every moment. When it fails, a pod
    /// that was not captured is left as it was.
    pub fn enrol(&self, pod: &PodCapture<'_>) -> Result<(), EbpfError> {
        let entry = pod.entry()?;
        let pin = PodPin { uid_hash: uid_hash(pod.uid), cookie: pod.cookie };
        // The same pod in another namespace: its sandbox was made anew.
        for old in self.pins.pods()?.into_iter().filter(|old| old.uid_hash == pin.uid_hash && old.cookie != pin.cookie) {
            self.release_pin(old)?;
        }
        let was_captured = self.pods.get(&pod.cookie)?.is_some();
        let result = self.capture(pod, &entry, pin);
        if result.is_err()
            && !was_captured
            && let Err(error) = self.release_pin(pin)
        {
            tracing::warn!(uid = pod.uid, %error, "a failed enrolment was not undone");
        }
        result
    }

    /// Ends a pod's capture and removes all that the kernel holds of it. Releasing a pod that is not captured is no error.
    pub fn release(&self, uid: &str) -> Result<(), EbpfError> {
        let hash = uid_hash(uid);
        self.pins.pods()?.into_iter().filter(|pin| pin.uid_hash == hash).try_for_each(|pin| self.release_pin(pin))
    }

    /// As [`Kernel::release`], for a pod of which only the pin is known.
    pub fn release_adopted(&self, pod: &AdoptedPod) -> Result<(), EbpfError> {
        self.release_pin(PodPin { uid_hash: pod.uid_hash, cookie: pod.cookie })
    }

    /// Every captured pod, whichever process enrolled it.
    pub fn adopted(&self) -> Result<Vec<AdoptedPod>, EbpfError> {
        let addresses = self.addresses.entries()?;
        let adopted = self.pins.pods()?.into_iter().map(|pin| {
            Ok(AdoptedPod {
                uid_hash: pin.uid_hash,
                cookie: pin.cookie,
                ips: addresses.iter().filter(|(_, owner)| *owner == pin.cookie).map(|(ip, _)| IpAddr::from(*ip)).collect(),
                netns_inode: self.linked_netns(pin)?,
            })
        });
        adopted.collect()
    }

    /// Lets probes through to the apps of this node's pods: connections from the node's own namespace (`netns_cookie`) by these
    /// probers. Replaces what was set before.
    pub fn let_probes_through(&self, netns_cookie: u64, Probers { cgroups, processes }: &Probers) -> Result<(), EbpfError> {
        replace(&self.probers, cgroups)?;
        replace(&self.prober_tasks, processes)?;
        for (cookie, _) in self.pods.entries()?.into_iter().filter(|(cookie, pod)| pod.is_node() && *cookie != netns_cookie) {
            self.forget(cookie)?;
        }
        if self.usage.get(&netns_cookie)?.is_none() {
            self.usage.insert(&netns_cookie, &Usage::default())?;
        }
        self.pods.insert(&netns_cookie, &Pod::node())
    }

    /// What runs at our attach points of the cgroup2 root, each in the order in which it runs.
    pub fn attach_order(&self) -> Result<Vec<ProgramAt>, EbpfError> {
        let mut order = Vec::new();
        for point in AttachPoint::ALL {
            let error = |source| EbpfError::Attach { program: point.program(), to: point.name().to_owned(), source };
            let own = self.linked_program(point)?;
            for id in sys::effective_programs(self.cgroup.as_fd(), point.kernel()).map_err(error)? {
                // Gone since: the order is that of a moment anyway.
                let Ok(name) = sys::program_name(id) else { continue };
                order.push(ProgramAt::new(point, id, name, own));
            }
        }
        Ok(order)
    }

    fn linked_program(&self, point: AttachPoint) -> Result<Option<u32>, EbpfError> {
        let path = self.pins.link(point.program());
        let Some(link) = pins::open(&path)? else { return Ok(None) };
        sys::link_info(link.as_fd()).map(|(_, program)| Some(program)).map_err(pin_error("read", &path))
    }

    /// How full the maps are. A few system calls a pod.
    pub fn map_entries(&self) -> Result<MapEntries, EbpfError> {
        let usage = self.usage.entries()?;
        Ok(MapEntries {
            pods: self.pins.pods()?.len(),
            addresses: self.addresses.keys()?.len(),
            tuples: usage.iter().map(|(_, usage)| usage.tuples).sum(),
            tokens: usage.iter().map(|(_, usage)| usage.tokens).sum(),
        })
    }

    /// Ends every capture of this instance and removes every trace of it. Connections that are captured lose nothing
    /// but the name of their peer.
    pub fn uninstall(self) -> Result<(), EbpfError> {
        self.pins.remove_all()
    }

    /// Puts a program where an earlier one is pinned, or attaches it anew.
    fn attach(&self, point: AttachPoint, program: BorrowedFd<'_>, cgroup_path: &Path) -> Result<(), EbpfError> {
        let path = self.pins.link(point.program());
        let old = pins::open(&path)?;
        if let Some(link) = &old
            && self.is_at_our_cgroup(link).map_err(pin_error("read", &path))?
        {
            return sys::update_link(link.as_fd(), program).map_err(|source| EbpfError::Update {
                program: point.program(),
                path,
                source,
            });
        }
        let to = || format!("{} of {}", point.name(), cgroup_path.display());
        let link = sys::attach_cgroup(program, self.cgroup.as_fd(), point.kernel()).map_err(|source| EbpfError::Attach {
            program: point.program(),
            to: to(),
            source,
        })?;
        // A link to a cgroup that is gone, or to another root than today's.
        if old.is_some() {
            pins::remove_link(&path).map_err(pin_error("remove", &path))?;
        }
        sys::pin(link.as_fd(), &path).map_err(pin_error("make", &path))
    }

    fn is_at_our_cgroup(&self, link: &OwnedFd) -> io::Result<bool> {
        Ok(sys::link_info(link.as_fd())?.0 == LinkTarget::Cgroup(self.cgroup.metadata()?.ino()))
    }

    /// Gives pinned pods the new program, and forgets entries of pods whose enrolment or release was cut short.
    fn adopt_pods(&self) -> Result<(), EbpfError> {
        let pins = self.pins.pods()?;
        for pin in &pins {
            let path = self.pins.pod(*pin);
            let Some(link) = pins::open(&path)? else { continue };
            match sys::update_link(link.as_fd(), self.lookup_program.as_fd()) {
                // The namespace is gone: `adopted` says so.
                Err(source) if source.raw_os_error() != Some(libc::ENOLINK) => {
                    return Err(EbpfError::Update { program: LOOKUP, path, source });
                }
                _ => {}
            }
        }
        let pods = self.pods.entries()?;
        let mut orphans: Vec<u64> = pods.iter().map(|(cookie, _)| *cookie).collect();
        orphans.extend(self.usage.keys()?);
        orphans.extend(self.addresses.entries()?.into_iter().map(|(_, owner)| owner));
        // The node's own namespace has no pin. Probes go on while a new process starts.
        let is_node = |cookie: &u64| pods.iter().any(|(of, pod)| of == cookie && pod.is_node());
        orphans.retain(|cookie| !pins.iter().any(|pin| pin.cookie == *cookie) && !is_node(cookie));
        orphans.sort_unstable();
        orphans.dedup();
        orphans.into_iter().try_for_each(|cookie| self.forget(cookie))
    }

    fn capture(&self, pod: &PodCapture<'_>, entry: &Pod, pin: PodPin) -> Result<(), EbpfError> {
        let ips: Vec<Address> = pod.ips.iter().map(|ip| Address::from(*ip)).collect();
        for ip in &ips {
            for kind in ListenerKind::ALL {
                let listener = match kind {
                    ListenerKind::Hbone => pod.hbone,
                    ListenerKind::Plaintext => pod.plaintext,
                };
                // Replaced, never deleted and inserted: the old one leaves by itself when it is closed.
                self.listeners.insert(&ListenerKey::new(*ip, kind), &listener.as_raw_fd())?;
            }
        }
        if self.usage.get(&pod.cookie)?.is_none() {
            self.usage.insert(&pod.cookie, &Usage::default())?;
        }
        for ip in &ips {
            self.addresses.insert(ip, &pod.cookie)?;
        }
        self.link_lookup(pod.netns, pin)?;
        self.pods.insert(&pod.cookie, entry)?;
        // Addresses that the pod had when it was enrolled before.
        for (ip, owner) in self.addresses.entries()? {
            if owner == pod.cookie && !ips.contains(&ip) {
                self.forget_address(&ip)?;
            }
        }
        Ok(())
    }

    /// Steers the namespace's arrivals, by the pinned link if it is alive.
    fn link_lookup(&self, netns: BorrowedFd<'_>, pin: PodPin) -> Result<(), EbpfError> {
        let path = self.pins.pod(pin);
        if self.linked_netns(pin)?.is_some() {
            return Ok(());
        }
        let link = sys::attach_netns(self.lookup_program.as_fd(), netns).map_err(|source| EbpfError::Attach {
            program: LOOKUP,
            to: "the pod's network namespace".to_owned(),
            source,
        })?;
        pins::remove_link(&path).map_err(pin_error("remove", &path))?;
        sys::pin(link.as_fd(), &path).map_err(pin_error("make", &path))
    }

    /// The inode of the namespace that a pod's pinned link is attached to; `None` without a link or a namespace.
    fn linked_netns(&self, pin: PodPin) -> Result<Option<u32>, EbpfError> {
        let path = self.pins.pod(pin);
        let Some(link) = pins::open(&path)? else { return Ok(None) };
        match sys::link_info(link.as_fd()).map_err(pin_error("read", &path))? {
            (LinkTarget::Netns(inode), _) if inode != 0 => Ok(Some(inode)),
            (LinkTarget::Netns(_) | LinkTarget::Cgroup(_) | LinkTarget::Other, _) => Ok(None),
        }
    }

    fn release_pin(&self, pin: PodPin) -> Result<(), EbpfError> {
        self.pods.remove(&pin.cookie)?;
        let path = self.pins.pod(pin);
        pins::remove_link(&path).map_err(pin_error("remove", &path))?;
        self.forget(pin.cookie)
    }

    /// Removes all entries of a namespace. Addresses that another pod has taken over meanwhile stay.
    fn forget(&self, cookie: u64) -> Result<(), EbpfError> {
        self.pods.remove(&cookie)?;
        for (ip, owner) in self.addresses.entries()? {
            if owner == cookie {
                self.forget_address(&ip)?;
            }
        }
        for key in self.tuples.keys()?.into_iter().filter(|key| key.netns_cookie == cookie) {
            self.tuples.remove(&key)?;
        }
        for (key, _) in self.tokens.entries()?.into_iter().filter(|(_, owner)| *owner == cookie) {
            self.tokens.remove(&key)?;
        }
        self.usage.remove(&cookie)?;
        Ok(())
    }

    fn forget_address(&self, ip: &Address) -> Result<(), EbpfError> {
        self.addresses.remove(ip)?;
        for kind in ListenerKind::ALL {
            self.listeners.remove(&ListenerKey::new(*ip, kind))?;
        }
        Ok(())
    }
}

/// Makes these the keys of a table.
fn replace<K: aya::Pod + PartialEq>(table: &Table<K, u32>, keys: &[K]) -> Result<(), EbpfError> {
    for old in table.keys()?.into_iter().filter(|old| !keys.contains(old)) {
        table.remove(&old)?;
    }
    keys.iter().try_for_each(|key| table.insert(key, &1))
}

fn load_object(pins: &Pins, processes: PidNamespace) -> Result<Ebpf, EbpfError> {
    let (device, inode) = match processes {
        PidNamespace::First => (0_u64, 0_u64),
        PidNamespace::Nested { device, inode } => (device, inode),
    };
    let mut loader = EbpfLoader::new();
    loader.override_global(PID_NAMESPACE_DEVICE, &device, true).override_global(PID_NAMESPACE_INODE, &inode, true);
    for name in names::MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.load(OBJECT).map_err(|error| match error {
        aya::EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            EbpfError::MapCreate { map: name, source: io_error }
        }
        source => EbpfError::Object { source: Box::new(source) },
    })
}

fn load_program(object: &mut Ebpf, name: &'static str) -> Result<OwnedFd, EbpfError> {
    let load = |program: &mut Program| -> Result<OwnedFd, ProgramError> {
        match program {
            Program::CgroupSockAddr(program) => program.load()?,
            Program::SockOps(program) => program.load()?,
            Program::SkLookup(program) => program.load()?,
            _ => return Err(ProgramError::UnexpectedProgramType),
        }
        Ok(program.fd()?.as_fd().try_clone_to_owned()?)
    };
    let program = object.program_mut(name).ok_or(EbpfError::Missing { kind: "program", name })?;
    load(program).map_err(|source| EbpfError::Load { program: name, source: Box::new(source) })
}

fn table<K: aya::Pod, V: aya::Pod>(object: &Ebpf, name: &'static str) -> Result<Table<K, V>, EbpfError> {
    Ok(Table::new(name, map::<K, V>(object, name)?))
}

/// The map's descriptor, when its keys and values have the sizes of these types.
fn map<K, V>(object: &Ebpf, name: &'static str) -> Result<OwnedFd, EbpfError> {
    let Some(Map::HashMap(data) | Map::SockHash(data) | Map::SkStorage(data)) = object.map(name) else {
        return Err(EbpfError::Missing { kind: "map", name });
    };
    let error = |error: MapError| EbpfError::Object { source: Box::new(error.into()) };
    // Asked of the kernel: the loader only knows the sizes of the object, not those of a map that was pinned before.
    let info: MapInfo = data.info().map_err(error)?;
    let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
    if (info.key_size(), info.value_size()) != (key, value) {
        let (found_key, found_value) = (info.key_size(), info.value_size());
        return Err(EbpfError::MapDiffers { map: name, found_key, found_value, key, value });
    }
    data.fd().as_fd().try_clone_to_owned().map_err(|source| EbpfError::Map { map: name, doing: "share", source })
}

fn pin_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EbpfError {
    let path: PathBuf = path.to_owned();
    move |source| EbpfError::Pin { doing, path, source }
}
