//! A disk in memory that loses what real disks lose.
//!
//! The fault model:
//! - **Power failure** ([`Disk::power_cycle`], [`Fault::PowerOff`]): of what was not synced, any subset survives. For
//!   content the unit is a block of 512 bytes, and any version written since the last sync may be the one on the disk. A
//!   file's length may be any that it had since. For names it is any subset of the creations, renames and removals in a folder since it was synced; one rename is
//!   atomic. What was synced survives.
//! - **Failed sync** ([`Fault::SyncFails`]): the kernel reports an error, has written any subset of the blocks, and forgets that the others are dirty: they read
//!   back, a later sync does not write them, and a power failure loses them.
//! - **Full disk** ([`Disk::set_capacity`]): a write stops part-way with `StorageFull`.
//! - **Lost sync** ([`Fault::SyncLies`]): reports success and does nothing. No format survives it; for tests that nothing panics.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_base::file::Metadata;
use weir_base::{File, FileSystem, OpenMode, Random};

use crate::Seeded;

const BLOCK: usize = 512;

/// What goes wrong at a chosen step. Steps count calls that change something, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The step is done half and everything after it fails, until the power comes back.
    PowerOff,
    /// If the step is a sync, it fails.
    SyncFails,
    /// If the step is a sync, it does nothing and says it did.
    SyncLies,
    /// The step fails, having done nothing or, if it is a write, a part.
    Fails,
}

/// A disk; clones are the same disk.
#[derive(Debug, Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: Seeded,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    /// Names as they would be after a power failure that loses everything unsynced.
    names_synced: BTreeMap<PathBuf, u64>,
    /// Changes of names since their folder was synced, in order.
    names_pending: Vec<NameChange>,
    dirs: Vec<PathBuf>,
    next_inode: u64,
    capacity: u64,
    step: u64,
    faults: BTreeMap<u64, Fault>,
    off: bool,
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Versions of blocks written since the last sync.
    dirty: BTreeMap<usize, Vec<[u8; BLOCK]>>,
    /// Lengths since the last sync.
    lengths: Vec<usize>,
}

impl Inode {
    fn touch(&mut self, from: usize, to: usize) {
        for block in from / BLOCK..to.div_ceil(BLOCK) {
            let version = block_of(&self.bytes, block);
            self.dirty.entry(block).or_default().push(version);
        }
        self.lengths.push(self.bytes.len());
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        let from = offset.min(self.bytes.len());
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        self.touch(from, end);
    }

    fn set_len(&mut self, len: usize) {
        let from = len.min(self.bytes.len());
        self.bytes.resize(len, 0);
        self.touch(from, len);
    }

    fn sync(&mut self) {
        self.synced.clone_from(&self.bytes);
        self.forget();
    }

    fn forget(&mut self) {
        self.dirty.clear();
        self.lengths.clear();
    }

    /// Puts what a power failure leaves into `synced`.
    fn settle(&mut self, random: &Seeded) {
        let lengths = self.lengths.len() as u64;
        let len = match random.below(lengths + 1) {
            0 => self.synced.len(),
            at => self.lengths[at as usize - 1],
        };
        let mut left = std::mem::take(&mut self.synced);
        left.resize(len.max(left.len()), 0);
        for (&block, versions) in &self.dirty {
            let chosen = random.below(versions.len() as u64 + 1) as usize;
            let range = block * BLOCK..((block + 1) * BLOCK).min(left.len());
            if chosen > 0 && range.start < range.end {
                let size = range.len();
                left[range].copy_from_slice(&versions[chosen - 1][..size]);
            }
        }
        left.truncate(len);
        self.synced = left;
        self.forget();
    }
}

fn block_of(bytes: &[u8], block: usize) -> [u8; BLOCK] {
    let mut version = [0; BLOCK];
    let range = (block * BLOCK).min(bytes.len())..((block + 1) * BLOCK).min(bytes.len());
    version[..range.len()].copy_from_slice(&bytes[range]);
    version
}

impl Disk {
    /// An empty disk of 16 EiB; `seed` decides what faults leave behind.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: Seeded::new(seed),
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            names_synced: BTreeMap::new(),
            names_pending: Vec::new(),
            dirs: vec![PathBuf::from("/")],
            next_inode: 1,
            capacity: u64::MAX,
            step: 0,
            faults: BTreeMap::new(),
            off: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// How many steps were taken.
    pub fn steps(&self) -> u64 {
        self.lock().step
    }

    /// Lets `fault` happen at step `step`.
    pub fn inject(&self, step: u64, fault: Fault) {
        self.lock().faults.insert(step, fault);
    }

    /// Takes back the faults that have not happened yet.
    pub fn calm(&self) {
        self.lock().faults.clear();
    }

    /// Bytes that fit on the disk in all.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Bytes on the disk.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// Loses what a power failure loses, and turns the power on again; open files are gone.
    pub fn power_cycle(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        for change in std::mem::take(&mut state.names_pending) {
            if state.random.once_in(2) {
                change.apply(&mut state.names_synced);
            }
        }
        state.names = state.names_synced.clone();
        let kept: Vec<u64> = state.names.values().copied().collect();
        state.inodes.retain(|inode, _| kept.contains(inode));
        let mut moved = BTreeMap::new();
        for (old, mut inode) in std::mem::take(&mut state.inodes) {
            inode.settle(&state.random);
            inode.bytes.clone_from(&inode.synced);
            moved.insert(old + state.next_inode, inode);
        }
        let shift = state.next_inode;
        state.names.values_mut().for_each(|inode| *inode += shift);
        state.names_synced = state.names.clone();
        state.next_inode = shift * 2 + 1;
        state.inodes = moved;
        state.faults.clear();
        state.off = false;
    }

    /// Changes a byte of a file behind everybody's back.
    pub fn flip(&self, path: &Path, offset: usize, mask: u8) {
        let mut state = self.lock();
        let inode = state.names[path];
        let inode = state.inodes.get_mut(&inode).expect("names point to inodes");
        inode.bytes[offset] ^= mask;
        inode.sync();
    }

    /// Cuts a file behind everybody's back.
    pub fn truncate(&self, path: &Path, len: usize) {
        let mut state = self.lock();
        let inode = state.names[path];
        let inode = state.inodes.get_mut(&inode).expect("names point to inodes");
        inode.bytes.truncate(len);
        inode.sync();
    }

    /// A disk with the same synced and unsynced bytes that goes its own way.
    pub fn fork(&self, seed: u64) -> Self {
        let copy = Self::new(seed);
        {
            let (from, mut to) = (self.lock(), copy.lock());
            to.names = from.names.clone();
            to.names_synced = from.names.clone();
            to.dirs = from.dirs.clone();
            to.next_inode = from.next_inode;
            for (&id, inode) in &from.inodes {
                let bytes = inode.bytes.clone();
                to.inodes.insert(id, Inode { synced: bytes.clone(), bytes, ..Inode::default() });
            }
        }
        copy
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Set(path, inode) => {
                names.insert(path, inode);
            }
            NameChange::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
            NameChange::Remove(path) => {
                names.remove(&path);
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let (NameChange::Set(path, _) | NameChange::Rename(_, path, _) | NameChange::Remove(path)) = self;
        path.parent() == Some(dir)
    }
}

impl State {
    fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.bytes.len() as u64).sum()
    }

    /// Counts a step; the fault that is due, or an error when the power is off.
    fn begin(&mut self) -> io::Result<Option<Fault>> {
        if self.off {
            return Err(power_is_off());
        }
        let fault = self.faults.remove(&self.step);
        self.step += 1;
        self.off = fault == Some(Fault::PowerOff);
        Ok(fault)
    }

    /// A step on names: done or not done before the power goes.
    fn begin_names(&mut self) -> io::Result<bool> {
        match self.begin()? {
            Some(Fault::PowerOff) => Ok(self.random.once_in(2)),
            Some(Fault::Fails) => Err(io::Error::other("injected failure")),
            _ => Ok(true),
        }
    }

    fn end(&self) -> io::Result<()> {
        if self.off { Err(power_is_off()) } else { Ok(()) }
    }

    fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        if self.off {
            return Err(power_is_off());
        }
        self.inodes.get_mut(&id).ok_or_else(|| io::Error::other("the file was open when the power went"))
    }

    fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.names_pending.push(change);
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        if self.off {
            return Err(power_is_off());
        }
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

#[derive(Debug)]
struct DiskFile {
    disk: Disk,
    inode: u64,
}

impl File for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.lock();
        let bytes = &state.inode(self.inode)?.bytes;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = buf.len().min(bytes.len() - from);
        buf[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let state = &mut *state;
        let fault = state.begin()?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let room = state.capacity.saturating_sub(state.used());
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(power_is_off)?;
        let grows = (offset + buf.len()).saturating_sub(inode.bytes.len()) as u64;
        if matches!(fault, Some(Fault::PowerOff | Fault::Fails)) {
            let count = state.random.below(buf.len() as u64 + 1) as usize;
            inode.write(&buf[..count], offset);
            return Err(io::Error::other("the write was interrupted"));
        }
        if grows > room {
            let count = (buf.len() as u64 + room - grows) as usize;
            inode.write(&buf[..count], offset);
            return Err(io::ErrorKind::StorageFull.into());
        }
        inode.write(buf, offset);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let fault = state.begin()?;
        if fault == Some(Fault::Fails) {
            return Err(io::Error::other("injected failure"));
        }
        let len = usize::try_from(len).map_err(io::Error::other)?;
        state.inodes.get_mut(&self.inode).ok_or_else(power_is_off)?.set_len(len);
        state.end()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inode(self.inode)?.bytes.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let state = &mut *state;
        let fault = state.begin()?;
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(power_is_off)?;
        match fault {
            Some(Fault::PowerOff) => Err(power_is_off()),
            Some(Fault::SyncFails | Fault::Fails) => {
                inode.settle(&state.random);
                Err(io::Error::other("injected sync failure"))
            }
            Some(Fault::SyncLies) => Ok(()),
            None => {
                inode.sync();
                Ok(())
            }
        }
    }
}

impl FileSystem for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.lock();
        let inode = match (state.find(path), mode) {
            (Ok(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(inode), _) => inode,
            (Err(error), OpenMode::Create | OpenMode::CreateNew) if error.kind() == io::ErrorKind::NotFound => {
                if !path.parent().is_some_and(|parent| state.dirs.iter().any(|dir| dir == parent)) {
                    return Err(error);
                }
                if !state.begin_names()? {
                    return Err(power_is_off());
                }
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.change(NameChange::Set(path.to_path_buf(), inode));
                state.end()?;
                inode
            }
            (Err(error), _) => return Err(error),
        };
        Ok(Arc::new(DiskFile { disk: self.clone(), inode }))
    }

    /// Folders survive at once: what tests are about is the files in them.
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.end()?;
        for dir in path.ancestors() {
            if !state.dirs.iter().any(|known| known == dir) {
                state.dirs.push(dir.to_path_buf());
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.lock();
        state.end()?;
        if !state.dirs.iter().any(|known| known == dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let folders = state.dirs.iter();
        Ok(state.names.keys().chain(folders).filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let mut state = self.lock();
        if state.dirs.iter().any(|dir| dir == path) {
            state.end()?;
            return Ok(Metadata { len: 0, allocated: 0, is_dir: true, modified: 0, changed: 0 });
        }
        let inode = state.find(path)?;
        let len = state.inode(inode)?.bytes.len() as u64;
        Ok(Metadata { len, allocated: len.next_multiple_of(BLOCK as u64), is_dir: false, modified: 0, changed: 0 })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let inode = state.find(from)?;
        if state.begin_names()? {
            state.change(NameChange::Rename(from.to_path_buf(), to.to_path_buf(), inode));
        }
        state.end()
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let inode = state.find(from)?;
        if state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.begin_names()? {
            state.change(NameChange::Set(to.to_path_buf(), inode));
        }
        state.end()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.find(path)?;
        if state.begin_names()? {
            state.change(NameChange::Remove(path.to_path_buf()));
        }
        state.end()
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.end()?;
        if state.names.keys().any(|name| name.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.dirs.retain(|dir| dir != path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let state = &mut *state;
        match state.begin()? {
            Some(Fault::PowerOff) => Err(power_is_off()),
            Some(Fault::SyncFails | Fault::Fails) => Err(io::Error::other("injected sync failure")),
            Some(Fault::SyncLies) => Ok(()),
            None => {
                let (synced, pending) =
                    std::mem::take(&mut state.names_pending).into_iter().partition(|change| change.is_in(dir));
                state.names_pending = pending;
                let synced: Vec<NameChange> = synced;
                synced.into_iter().for_each(|change| change.apply(&mut state.names_synced));
                Ok(())
            }
        }
    }

    fn available(&self, _path: &Path) -> io::Result<u64> {
        let state = self.lock();
        state.end()?;
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_may_not() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let disk = Disk::new(seed);
            let path = Path::new("/f");
            let file = disk.open(path, OpenMode::Create).unwrap();
            file.write_all_at(&[1; 1000], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            file.write_all_at(&[2; 1000], 1000).unwrap();
            disk.power_cycle();
            assert!(file.len().is_err(), "open files are gone");
            let left = disk.read(path).unwrap();
            assert_eq!(left[..1000], [1; 1000]);
            assert!(left[1000..].iter().all(|byte| [0, 2].contains(byte)));
            outcomes.insert(left);
        }
        assert!(outcomes.len() > 4, "any subset of blocks: {}", outcomes.len());
    }

    #[test]
    fn after_a_failed_sync_a_second_one_does_not_help() {
        let lost = (0..32).filter(|&seed| {
            let disk = Disk::new(seed);
            let path = Path::new("/f");
            let file = disk.open(path, OpenMode::Create).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            file.write_all_at(&[1; 512], 0).unwrap();
            disk.inject(disk.steps(), Fault::SyncFails);
            file.sync_data().unwrap_err();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 0).unwrap();
            assert_eq!(byte, [1], "the page cache still has it");
            disk.power_cycle();
            disk.read(path).unwrap() != [1; 512]
        });
        assert!((4..28).contains(&lost.count()));
    }
}
