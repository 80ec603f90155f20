//! SQLite's clock: while a client's SQL runs on a thread, it shows the time of the [moment](crate::moment), and no time zone.
//!
//! SQLite asks its virtual file system (VFS) what time it is. The one that is made here is the system's own in everything
//! else, so SQLite's own functions of time work wherever they may stand, with their own errors: in defaults, triggers, views,
//! generated columns, checks and indexes. To replace the functions would lose the last three. SQLite asks the C
//! library about the time zone, which may differ between nodes, so that is an error here.
//!
//! Both callbacks look at the thread that they are called on. So one registration serves the whole process, for as long as it runs; no
//! file and no connection holds anything that would have to be released. Whoever else uses SQLite in this process, with
//! another VFS, or with this one while no moment holds, sees the system's time and time zone as ever.
//!
//! This is the only unsafe code of RaftKV outside of tests.
#![expect(unsafe_code, reason = "SQLite asks for the time through C's function pointers")]

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use rusqlite::ffi::{self, sqlite3_int64, sqlite3_vfs};

use crate::moment::{now_ms, present_ms};

const NAME: &CStr = c"raftkv";

/// The VFS to open connections with that clients' SQL runs on.
pub(crate) fn vfs() -> rusqlite::Result<&'static CStr> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    match *REGISTERED.get_or_init(register) {
        ffi::SQLITE_OK => Ok(NAME),
        code => Err(rusqlite::Error::SqliteFailure(
            ffi::Error::new(code),
            Some("SQLite's clock could not be replaced".into()),
        )),
    }
}

fn register() -> c_int {
    // SAFETY: the name may be null, for the default. What comes back is null or valid, and stays so: SQLite never frees a VFS.
    let system = unsafe { ffi::sqlite3_vfs_find(ptr::null()).as_ref() };
    // Since version 2, SQLite asks for the time as an integer, and only so.
    let Some(system) = system.filter(|system| system.iVersion >= 2) else {
        return ffi::SQLITE_NOTFOUND;
    };
    let ours = Box::leak(Box::new(sqlite3_vfs {
        zName: NAME.as_ptr(),
        pNext: ptr::null_mut(),
        xCurrentTimeInt64: Some(current_time),
        ..*system
    }));
    // SAFETY: `ours` is never freed, and is not looked at here any more. The system's functions in it get what they expect: they may
    // look at `pAppData`, which is the system's, and are told by their name only where that is "unix-excl".
    let registered = unsafe { ffi::sqlite3_vfs_register(ours, 0) };
    if registered == ffi::SQLITE_OK {
        let local_time: extern "C" fn(*const c_void, *mut c_void) -> c_int = local_time;
        // SAFETY: with 2, SQLite takes one argument more, a function of this type.
        unsafe { ffi::sqlite3_test_control(ffi::SQLITE_TESTCTRL_LOCALTIME_FAULT, 2 as c_int, local_time) };
    }
    registered
}

/// What SQLite asks for the time: milliseconds of Julian days.
extern "C" fn current_time(_: *mut sqlite3_vfs, time: *mut sqlite3_int64) -> c_int {
    const UNIX_EPOCH: i64 = 210_866_760_000_000;
    let time_ms = i64::try_from(present_ms().unwrap_or_else(now_ms)).unwrap_or(i64::MAX);
    // SAFETY: SQLite passes a place for its answer.
    unsafe { time.write(time_ms.saturating_add(UNIX_EPOCH)) };
    ffi::SQLITE_OK
}

/// What SQLite asks for the local time. Anything but zero says that there is none.
extern "C" fn local_time(time: *const c_void, parts: *mut c_void) -> c_int {
    if present_ms().is_some() {
        return 1;
    }
    // SAFETY: SQLite passes a `time_t` and a place for a `tm`, and would call this function itself.
    let done = unsafe { libc::localtime_r(time.cast(), parts.cast()) };
    c_int::from(done.is_null())
}
