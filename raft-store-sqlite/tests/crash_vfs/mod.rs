//! SQLite on disks whose power can be cut: a VFS that is the system's own, but tells a [`Disk`] of each write, sync and removal.
//!
//! The files are real ones, so the store is the one that is shipped, down to its look at the write-ahead log. It need not know: the VFS is
//! made the default one. What the store does to files without SQLite (folders, renames, what is received of a snapshot) takes effect at once.

mod disk;

pub use disk::{Disk, Fault, Image, Tally};

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

use disk::FileId;

/// How many pages SQLite lets a write-ahead log grow to, instead of what it is asked for: so that small files have checkpoints too.
const CHECKPOINT_PAGES: &CStr = c"24";

static DISKS: Mutex<Vec<Arc<Disk>>> = Mutex::new(Vec::new());
/// The files that are open, by where SQLite has put them.
static OPEN: Mutex<BTreeMap<usize, Open>> = Mutex::new(BTreeMap::new());

#[derive(Clone)]
struct Open {
    system: &'static sqlite3_io_methods,
    disk: Arc<Disk>,
    file: FileId,
    /// What SQLite was asked to do about checkpoints, until it is asked whether it does.
    asked: Option<[u8; 8]>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the VFS the default one. To be called before the store opens a file for the first time: it goes on with what it finds then.
pub fn install() {
    system();
}

/// Puts the disk beneath its folder.
pub fn mount(disk: &Arc<Disk>) {
    lock(&DISKS).push(disk.clone());
}

/// Takes it away again.
pub fn unmount(disk: &Arc<Disk>) {
    lock(&DISKS).retain(|other| !Arc::ptr_eq(other, disk));
}

/// The disk that a file is on, and its name there.
fn find(path: &Path) -> Option<(Arc<Disk>, String)> {
    let disk = lock(&DISKS).iter().find(|disk| path.parent() == Some(disk.folder()))?.clone();
    Some((disk, path.file_name()?.to_str()?.to_owned()))
}

fn opened(file: *mut sqlite3_file) -> Open {
    lock(&OPEN).get(&file.addr()).expect("the file was opened here").clone()
}

fn code(done: Result<(), c_int>) -> c_int {
    done.err().unwrap_or(ffi::SQLITE_OK)
}

/// The system's VFS, with ours put before it.
fn system() -> &'static sqlite3_vfs {
    static SYSTEM: OnceLock<Shared> = OnceLock::new();
    let system = SYSTEM.get_or_init(|| {
        // SAFETY: null asks for the default. SQLite never frees a VFS.
        let system: &'static sqlite3_vfs =
            unsafe { ffi::sqlite3_vfs_find(ptr::null()).as_ref() }.expect("SQLite has one");
        let ours = sqlite3_vfs {
            zName: c"crash".as_ptr(),
            pNext: ptr::null_mut(),
            xOpen: Some(open),
            xDelete: Some(delete),
            ..*system
        };
        // SAFETY: it is never freed, and its other functions are the system's, which get what they expect.
        let registered = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 1) };
        assert_eq!(registered, ffi::SQLITE_OK, "the VFS is registered");
        Shared(system)
    });
    system.0
}

/// A VFS that all threads use.
struct Shared(&'static sqlite3_vfs);

// SAFETY: SQLite calls a VFS from all threads, and changes nothing in it but the link to the next.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// The system's functions for a file, with ours before those that change it.
fn ours(system: &'static sqlite3_io_methods) -> &'static sqlite3_io_methods {
    static OURS: Mutex<BTreeMap<usize, &'static sqlite3_io_methods>> = Mutex::new(BTreeMap::new());
    lock(&OURS).entry(ptr::from_ref(system).addr()).or_insert_with(|| {
        Box::leak(Box::new(sqlite3_io_methods {
            xClose: Some(close),
            xWrite: Some(write),
            xTruncate: Some(truncate),
            xSync: Some(sync),
            xFileControl: Some(control),
            ..*system
        }))
    })
}

unsafe fn path_of<'a>(name: *const c_char) -> &'a Path {
    // SAFETY: SQLite passes a text that lives as long as the call.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

// SAFETY of what follows: SQLite calls with pointers that are valid for the call, to files that `open` has opened; what is passed on is
// what came.

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let on_disk = if name.is_null() { None } else { find(unsafe { path_of(name) }) };
    let below = system();
    let opened = unsafe { below.xOpen.expect("it opens")(ptr::from_ref(below).cast_mut(), name, file, flags, out) };
    if opened == ffi::SQLITE_OK
        && let Some((disk, name)) = on_disk
    {
        let system = unsafe { (*file).pMethods.as_ref() }.expect("an open file has functions");
        let id = disk.open(&name);
        lock(&OPEN).insert(file.addr(), Open { system, disk, file: id, asked: None });
        unsafe { (*file).pMethods = ours(system) };
    }
    opened
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, and_sync: c_int) -> c_int {
    if let Some((disk, name)) = find(unsafe { path_of(name) }) {
        disk.delete(&name, and_sync != 0);
    }
    let below = system();
    unsafe { below.xDelete.expect("it deletes")(ptr::from_ref(below).cast_mut(), name, and_sync) }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let open = lock(&OPEN).remove(&file.addr()).expect("the file was opened here");
    unsafe { open.system.xClose.expect("it closes")(file) }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    from: *const c_void,
    length: c_int,
    offset: sqlite3_int64,
) -> c_int {
    let open = opened(file);
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), length as usize) };
    let (written, done) = open.disk.write(open.file, offset as usize, bytes);
    let below = match written {
        0 => ffi::SQLITE_OK,
        _ => unsafe { open.system.xWrite.expect("it writes")(file, from, written as c_int, offset) },
    };
    if below == ffi::SQLITE_OK { code(done) } else { below }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: sqlite3_int64) -> c_int {
    let open = opened(file);
    open.disk.truncate(open.file, length as usize);
    unsafe { open.system.xTruncate.expect("it truncates")(file, length) }
}

/// The disk below is not the one that may fail, so it is not waited for.
unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    let open = opened(file);
    code(open.disk.sync(open.file))
}

unsafe extern "C" fn control(file: *mut sqlite3_file, what: c_int, argument: *mut c_void) -> c_int {
    let open = opened(file);
    if what == ffi::SQLITE_FCNTL_PRAGMA
        && let Some(done) = unsafe { pragma(file, argument.cast()) }
    {
        return done;
    }
    unsafe { open.system.xFileControl.expect("it is controlled")(file, what, argument) }
}

/// SQLite asks about each PRAGMA first. It does checkpoints far more often than it was told to, and says what it was told.
unsafe fn pragma(file: *mut sqlite3_file, parts: *mut *mut c_char) -> Option<c_int> {
    let (name, value) = unsafe { (CStr::from_ptr(*parts.add(1)), *parts.add(2)) };
    if name != c"wal_autocheckpoint" {
        return None;
    }
    let mut files = lock(&OPEN);
    let asked = &mut files.get_mut(&file.addr())?.asked;
    if value.is_null() {
        let text = asked.take()?;
        unsafe { *parts = ffi::sqlite3_mprintf(c"%s".as_ptr(), text.as_ptr()) };
        return Some(ffi::SQLITE_OK);
    }
    let mut text = [0; 8];
    let length = unsafe { CStr::from_ptr(value) }.count_bytes();
    assert!(length < text.len() && length >= CHECKPOINT_PAGES.count_bytes(), "it is a number of some digits");
    unsafe {
        ptr::copy_nonoverlapping(value.cast(), text.as_mut_ptr(), length);
        ptr::copy_nonoverlapping(CHECKPOINT_PAGES.as_ptr(), value, CHECKPOINT_PAGES.count_bytes() + 1);
    }
    *asked = Some(text);
    None
}
