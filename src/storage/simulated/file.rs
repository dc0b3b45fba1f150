//! Open files of the simulated storage.

use std::{
    any::Any,
    borrow::Cow,
    io,
    path::PathBuf,
    sync::{Arc, MutexGuard},
};

use super::{Shared, State, WriteNotice, contents::PAGE, errno, faults::OperationKind, log::Operation};
use crate::storage::{FileExtent, FileId, FileKind, FileVersion, Lock, StorageFile};

/// One handle. Handles of the same file share its bytes, not its locks.
#[derive(Debug)]
pub(super) struct SimulatedFile {
    pub(super) shared: Arc<Shared>,
    pub(super) file: u64,
    /// The name it was opened by.
    pub(super) path: PathBuf,
    pub(super) writable: bool,
    pub(super) handle: u64,
}

impl SimulatedFile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Calls the hook, if there is one, with the bytes that are going to be there.
    fn tell<'a>(&self, offset: u64, data: impl FnOnce() -> Cow<'a, [u8]>) {
        let Some(hook) = self.shared.hook() else { return };
        let state = self.state();
        let path = state.name_of(self.file).unwrap_or(&self.path).to_owned();
        let earlier_durable = state.is_synced(self.file);
        // The hook may look into the storage.
        drop(state);
        hook(&WriteNotice { path: &path, offset, data: &data(), earlier_durable });
    }

    fn state_to_write(&self) -> io::Result<MutexGuard<'_, State>> {
        if self.writable { Ok(self.state()) } else { Err(errno(libc::EBADF)) }
    }
}

impl StorageFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.state();
        state.faults.meet(OperationKind::Status)?;
        Ok(state.contents(self.file)?.length())
    }

    fn version(&self) -> io::Result<FileVersion> {
        let mut state = self.state();
        state.faults.meet(OperationKind::Status)?;
        state.version(self.file)
    }

    fn distinct_version(&self) -> io::Result<Option<FileVersion>> {
        let mut state = self.state();
        state.faults.meet(OperationKind::Status)?;
        state.distinct_version(self.file)
    }

    fn allocated(&self) -> io::Result<u64> {
        let mut state = self.state();
        state.faults.meet(OperationKind::Status)?;
        Ok(state.contents(self.file)?.allocated())
    }

    fn id(&self) -> io::Result<FileId> {
        let mut state = self.state();
        state.faults.meet(OperationKind::Status)?;
        Ok(state.file_id(self.file))
    }

    fn kind(&self) -> io::Result<FileKind> {
        self.state().faults.meet(OperationKind::Status)?;
        Ok(FileKind::Regular)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state();
        let allowed = state.faults.meet(OperationKind::Read)?.min(buf.len());
        Ok(state.contents(self.file)?.read(offset, &mut buf[..allowed]))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.tell(offset, || buf.into());
        let mut state = self.state_to_write()?;
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(errno(libc::EFBIG));
        }
        let write = |data: &[u8]| Operation::Write { file: self.file, offset, data: data.into() };
        let leave = state.attempt(|| write(buf))?;
        let allowed = leave.most.min(buf.len());
        state.carry_out(write(&buf[..allowed]), leave)?;
        Ok(allowed)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.state_to_write()?;
        if length > i64::MAX as u64 {
            return Err(errno(libc::EFBIG));
        }
        state.perform(Operation::SetLen { file: self.file, length })
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let inside = |end: u64| length.min(end.saturating_sub(offset));
        let known = self.state().contents(self.file)?.length();
        self.tell(offset, || vec![0; inside(known) as usize].into());
        let mut state = self.state_to_write()?;
        let length = inside(state.contents(self.file)?.length());
        state.perform(Operation::Punch { file: self.file, offset, length })
    }

    fn clone_range(
        &self,
        source: &dyn StorageFile,
        source_offset: u64,
        length: u64,
        offset: u64,
    ) -> io::Result<()> {
        let source: &dyn Any = source;
        let source = source.downcast_ref::<SimulatedFile>().ok_or(io::ErrorKind::Unsupported)?;
        if !Arc::ptr_eq(&self.shared, &source.shared) {
            return Err(errno(libc::EOPNOTSUPP));
        }
        let data = self.state().bytes_to_share((source.file, source_offset), length, (self.file, offset))?;
        self.tell(offset, || data.as_ref().into());
        let clone =
            Operation::CloneRange { file: self.file, offset, source: source.file, source_offset, data };
        self.state_to_write()?.perform(clone)
    }

    fn clone_unit(&self) -> io::Result<Option<u64>> {
        Ok(self.state().nature.shares_blocks.then_some(PAGE))
    }

    fn sync(&self) -> io::Result<()> {
        self.state().perform(Operation::Sync { file: self.file })
    }

    fn extent_at(&self, offset: u64) -> io::Result<FileExtent> {
        let mut state = self.state();
        state.faults.meet(OperationKind::Extent)?;
        let (hole, end) = state.contents(self.file)?.extent_at(offset);
        Ok(FileExtent { hole, end })
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        let mut state = self.state();
        state.faults.meet(OperationKind::Lock)?;
        state.lock(self.file, self.handle, lock)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        self.state().close(self.handle);
    }
}
