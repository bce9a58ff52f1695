//! The clock of a Redis process, which a preloaded library shifts. libfaketime cannot do so: it allocates memory while
//! it starts, and Redis's allocator then waits for it for ever.

use std::{
    fs,
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use crate::lab::{LabError, Process};

const SHIM: &str = include_str!("clock_shim.c");
/// Environment variable that names the file with the shift.
const SHIFT: &str = "EVENKEEL_CLOCK_SHIFT";

/// The shifted clock of one process.
#[derive(Debug)]
pub(super) struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: fs::File,
    shift_ms: i64,
}

impl Clock {
    /// Compiles the library. Returns `None` if the machine has no C compiler.
    pub(super) fn compile(dir: &Path) -> Result<Option<Self>, LabError> {
        let (source, library) = (dir.join("clock_shim.c"), dir.join("clock_shim.so"));
        fs::write(&source, SHIM).map_err(LabError::io("writing the clock's library"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        let compiled = match compiler.output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(LabError::io("running cc"))?,
        };
        if !compiled.status.success() {
            let what = format!("cc: {}", String::from_utf8_lossy(&compiled.stderr));
            return Err(LabError::Response { what });
        }
        let path = dir.join("clock-shift");
        let file = fs::File::create(&path).map_err(LabError::io("creating the clock's file"))?;
        let mut clock = Self { library, path, file, shift_ms: 0 };
        clock.shift(0)?;
        Ok(Some(clock))
    }

    /// Makes a process use this clock.
    pub(super) fn on(&self, process: Process) -> Process {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        process.env("LD_PRELOAD", &text(&self.library)).env(SHIFT, &text(&self.path))
    }

    /// Lets the clock jump.
    pub(super) fn shift(&mut self, by_ms: i64) -> Result<(), LabError> {
        self.shift_ms += by_ms;
        let bytes = (self.shift_ms * 1000).to_ne_bytes();
        let written = self.file.rewind().and_then(|()| self.file.write_all(&bytes));
        written.map_err(LabError::io("writing the clock's file"))
    }
}
