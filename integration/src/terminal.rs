//! A terminal for a program under test: a pty whose master the test reads, writes and resizes.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Child, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{libc, pty::openpty, sys::termios};

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
nix::ioctl_none_bad!(take_controlling_terminal, libc::TIOCSCTTY);

/// A program on its own terminal.
pub struct Terminal {
    master: File,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
    pub child: Child,
}

impl Terminal {
    /// Starts `command` on a terminal of that size.
    pub fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let size = winsize(columns, rows);
        let pty = openpty(Some(&size), None::<&termios::Termios>).expect("open a pty");
        let slave = || pty.slave.try_clone().expect("duplicate the slave");
        command.stdin(slave()).stdout(slave()).stderr(slave());
        // SAFETY: setsid and an ioctl are async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                take_controlling_terminal(0)?;
                Ok(())
            });
        }
        let child = command.spawn().expect("start the program");
        drop((command, pty.slave));
        let master = File::from(pty.master);
        let mut reader = master.try_clone().expect("duplicate the master");
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { master, output, seen: String::new(), child }
    }

    pub fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("write to the terminal");
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        // SAFETY: the descriptor is a pty's master, and the struct lives across the call.
        unsafe { set_window_size(self.master.as_raw_fd(), &winsize(columns, rows)) }
            .expect("resize the terminal");
    }

    /// Waits until the program has written `words`, and returns all that came since the last call.
    pub fn expect(&mut self, words: &str) -> String {
        let began = Instant::now();
        loop {
            if let Some(at) = self.seen.find(words) {
                let rest = self.seen.split_off(at + words.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            match self.output.recv_timeout(Duration::from_millis(100)) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(mpsc::RecvTimeoutError::Timeout) if began.elapsed() < Duration::from_secs(90) => {}
                Err(_) => panic!("the terminal never showed {words:?}, but {:?}", self.seen),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It has usually ended.
        let _ = self.child.wait();
    }
}

fn winsize(columns: u16, rows: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
