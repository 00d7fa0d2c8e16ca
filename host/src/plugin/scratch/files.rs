//! `wasi:filesystem` over the scratch directory: the runtime's own, with the account before everything
//! that makes the directory larger, and without links.
//!
//! A guest makes one call at a time, so that nothing but its own streams changes the directory between
//! two steps of a call; those change lengths, and take the account's lock for it.

use super::stream::{FileInput, FileOutput};
use super::{Named, Scratch};
use std::fs::File;
use std::io;
use std::sync::Arc;
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::OpenMode;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream, ErrorCode,
    Filesize, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

/// Marks the files of a state, for the linker.
pub(in crate::plugin) struct ScratchFiles;

impl HasData for ScratchFiles {
    type Data<'a> = Files<'a>;
}

/// The files of a guest while it makes a call. Without a scratch directory there are none, and the
/// runtime has no descriptor to ask anything of.
pub(in crate::plugin) struct Files<'a> {
    wasi: WasiFilesystemCtxView<'a>,
    scratch: Option<Scratch>,
}

impl<'a> Files<'a> {
    pub(in crate::plugin) fn new(wasi: WasiFilesystemCtxView<'a>, scratch: Option<Scratch>) -> Self {
        Self { wasi, scratch }
    }

    fn scratch(&self) -> FsResult<Scratch> {
        self.scratch.clone().ok_or_else(|| ErrorCode::NotPermitted.into())
    }

    /// The file behind a descriptor that is open for writing.
    fn writable(&self, fd: &Resource<Descriptor>) -> FsResult<Arc<File>> {
        match self.wasi.table.get(fd)? {
            Descriptor::File(file) if file.open_mode.contains(OpenMode::WRITE) => Ok(Arc::clone(&file.file)),
            Descriptor::File(_) => Err(ErrorCode::BadDescriptor.into()),
            Descriptor::Dir(_) => Err(ErrorCode::IsDirectory.into()),
        }
    }

    /// What a path names, before that name is taken away; `None` when nothing can be said of it, and
    /// then nothing of it is given back.
    async fn named(&mut self, fd: &Resource<Descriptor>, path: &str) -> Option<Named> {
        let stat = self.wasi.stat_at(again(fd), PathFlags::empty(), path.to_owned()).await.ok()?;
        let id = self.id_at(fd, path).await?;
        let bytes = if stat.type_ == DescriptorType::RegularFile { stat.size } else { 0 };
        Some(Named { id, bytes })
    }

    async fn id_at(&mut self, fd: &Resource<Descriptor>, path: &str) -> Option<super::Id> {
        let hash = self.wasi.metadata_hash_at(again(fd), PathFlags::empty(), path.to_owned()).await.ok()?;
        Some((hash.lower, hash.upper))
    }

    /// Notes what was just opened, and empties it where that was asked for.
    async fn note(&mut self, scratch: &Scratch, fd: &Resource<Descriptor>, empties: bool) -> FsResult<()> {
        let file = match self.wasi.table.get(fd)? {
            Descriptor::File(file) => Arc::clone(&file.file),
            Descriptor::Dir(dir) => Arc::clone(&dir.dir),
        };
        let hash = self.wasi.metadata_hash(again(fd)).await?;
        scratch.opened((hash.lower, hash.upper), &file)?;
        if empties {
            let scratch = scratch.clone();
            blocking(move || scratch.set_size(&file, 0)).await?;
        }
        Ok(())
    }
}

/// The same handle once more: the functions of the runtime take it, and give it back to the table.
fn again<T: 'static>(handle: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(handle.rep())
}

/// Does what may wait for the disk where that holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> FsResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(lost) => Err(FsError::trap(lost)),
    }
}

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        preopens::Host::get_directories(&mut self.wasi)
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.wasi.convert_error_code(error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        self.wasi.filesystem_error_code(error)
    }
}

impl HostDescriptor for Files<'_> {
    // What makes it larger.

    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let scratch = self.scratch()?;
        let empties = open_flags.contains(OpenFlags::TRUNCATE);
        if empties && (!flags.contains(DescriptorFlags::WRITE) || open_flags.contains(OpenFlags::DIRECTORY)) {
            return Err(ErrorCode::Invalid.into());
        }
        if !scratch.may_open() {
            return Err(ErrorCode::Quota.into());
        }
        // Emptied by the account and not by opening it, so that what it held is given back.
        let mut opening = OpenFlags::empty();
        for flag in [OpenFlags::CREATE, OpenFlags::DIRECTORY, OpenFlags::EXCLUSIVE] {
            if open_flags.contains(flag) {
                opening |= flag;
            }
        }
        // There are no symbolic links, so that a path which names nothing is what would be made.
        let makes = open_flags.contains(OpenFlags::CREATE)
            && self.wasi.stat_at(again(&fd), path_flags, path.clone()).await.is_err();
        if makes && !scratch.take_file() {
            return Err(ErrorCode::InsufficientSpace.into());
        }
        let opened = match self.wasi.open_at(fd, path_flags, path, opening, flags).await {
            Ok(opened) => opened,
            Err(error) => {
                if makes {
                    scratch.give_file();
                }
                return Err(error);
            }
        };
        if let Err(error) = self.note(&scratch, &opened, empties).await {
            self.wasi.table.delete(opened)?;
            return Err(error);
        }
        scratch.count("scratch.open", 0);
        Ok(opened)
    }

    async fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        let scratch = self.scratch()?;
        if !scratch.take_file() {
            return Err(ErrorCode::InsufficientSpace.into());
        }
        let made = self.wasi.create_directory_at(fd, path).await;
        if made.is_err() {
            scratch.give_file();
        }
        made
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        let (scratch, file) = (self.scratch()?, self.writable(&fd)?);
        blocking(move || scratch.set_size(&file, size)).await
    }

    async fn write(&mut self, fd: Resource<Descriptor>, buffer: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        let (scratch, file) = (self.scratch()?, self.writable(&fd)?);
        blocking(move || scratch.write(&file, &buffer, Some(offset))).await
    }

    fn write_via_stream(&mut self, fd: Resource<Descriptor>, offset: Filesize) -> FsResult<Resource<DynOutputStream>> {
        self.output(&fd, Some(offset))
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        self.output(&fd, None)
    }

    // What makes it smaller, or moves things within it.

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        let scratch = self.scratch()?;
        let named = self.named(&fd, &path).await;
        self.wasi.unlink_file_at(fd, path).await?;
        named.into_iter().for_each(|named| scratch.lost_name(named));
        Ok(())
    }

    async fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        let scratch = self.scratch()?;
        let named = self.named(&fd, &path).await;
        self.wasi.remove_directory_at(fd, path).await?;
        named.into_iter().for_each(|named| scratch.lost_name(named));
        Ok(())
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        let scratch = self.scratch()?;
        let moved = self.id_at(&fd, &old_path).await;
        let replaced = self.named(&new_fd, &new_path).await;
        self.wasi.rename_at(fd, old_path, new_fd, new_path).await?;
        // Onto itself it replaces nothing.
        if let (Some(moved), Some(replaced)) = (moved, replaced)
            && moved != replaced.id
        {
            scratch.lost_name(replaced);
        }
        Ok(())
    }

    // What there is not: a file has one name, and no name leads elsewhere.

    async fn link_at(
        &mut self,
        _: Resource<Descriptor>,
        _: PathFlags,
        _: String,
        _: Resource<Descriptor>,
        _: String,
    ) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    async fn symlink_at(&mut self, _: Resource<Descriptor>, _: String, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    // What only reads.

    fn read_via_stream(&mut self, fd: Resource<Descriptor>, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        let permit = self.scratch()?.stream_place().ok_or(ErrorCode::Quota)?;
        let plain = self.wasi.read_via_stream(fd, offset)?;
        let counted: DynInputStream = Box::new(FileInput::new(self.wasi.table.delete(plain)?, permit));
        Ok(self.wasi.table.push(counted)?)
    }

    async fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        let scratch = self.scratch()?;
        if !scratch.may_list() {
            return Err(ErrorCode::Quota.into());
        }
        let listing = self.wasi.read_directory(fd).await?;
        scratch.listed(listing.rep());
        Ok(listing)
    }

    async fn read(&mut self, fd: Resource<Descriptor>, len: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        self.wasi.read(fd, len, offset).await
    }

    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
        len: Filesize,
        advice: Advice,
    ) -> FsResult<()> {
        self.wasi.advise(fd, offset, len, advice).await
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.wasi.sync_data(fd).await
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.wasi.sync(fd).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        self.wasi.get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.wasi.get_type(fd).await
    }

    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        access: NewTimestamp,
        modification: NewTimestamp,
    ) -> FsResult<()> {
        self.wasi.set_times(fd, access, modification).await
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        access: NewTimestamp,
        modification: NewTimestamp,
    ) -> FsResult<()> {
        self.wasi.set_times_at(fd, path_flags, path, access, modification).await
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        self.wasi.stat(fd).await
    }

    async fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        self.wasi.stat_at(fd, path_flags, path).await
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.wasi.readlink_at(fd, path).await
    }

    async fn is_same_object(&mut self, a: Resource<Descriptor>, b: Resource<Descriptor>) -> wasmtime::Result<bool> {
        self.wasi.is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        self.wasi.metadata_hash(fd).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.wasi.metadata_hash_at(fd, path_flags, path).await
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.wasi, fd)
    }
}

impl Files<'_> {
    fn output(&mut self, fd: &Resource<Descriptor>, position: Option<u64>) -> FsResult<Resource<DynOutputStream>> {
        let (scratch, file) = (self.scratch()?, self.writable(fd)?);
        let permit = scratch.stream_place().ok_or(ErrorCode::Quota)?;
        let stream: DynOutputStream = Box::new(FileOutput::new(scratch, file, position, permit));
        Ok(self.wasi.table.push(stream)?)
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        listing: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.wasi.read_directory_entry(listing).await
    }

    fn drop(&mut self, listing: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        if let Some(scratch) = &self.scratch {
            scratch.unlisted(listing.rep());
        }
        HostDirectoryEntryStream::drop(&mut self.wasi, listing)
    }
}
