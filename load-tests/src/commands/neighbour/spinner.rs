//! A process that keeps one processor busy, and nothing else.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

/// How the kernel treats the process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Priority {
    /// As every other.
    Normal,
    /// As the one to whom nothing is due (`nice -n 19`).
    Lowest,
}

/// The process. Killed when dropped.
pub(super) struct Spinner(Child);

impl Priority {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Lowest => "nice 19",
        }
    }
}

impl Spinner {
    pub(super) fn start(priority: Priority) -> anyhow::Result<Self> {
        let this = std::env::current_exe().context("find this program")?;
        let mut command = match priority {
            Priority::Normal => Command::new(this),
            Priority::Lowest => {
                let mut command = Command::new("nice");
                command.args(["-n", "19"]).arg(this);
                command
            }
        };
        // It ends with its input: also if this process is killed.
        let child = command.arg("spin").stdin(Stdio::piped()).spawn();
        Ok(Self(child.context("start a busy process")?))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // One that has ended already is no worse.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keeps one processor busy until the input ends.
pub(crate) fn spin() {
    static OVER: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        // Nothing is written to it; an error is an end as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        OVER.store(true, Ordering::Relaxed);
    });
    let mut number = 1_u64;
    while !OVER.load(Ordering::Relaxed) {
        for _ in 0..1_000 {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005));
        }
    }
}
