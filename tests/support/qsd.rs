//! A running `qemu-storage-daemon`, told what to do over its monitor.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::qemu::{Workshop, spawn};

/// The daemon; it ends with the value.
pub struct Qsd<'a> {
    workshop: &'a Workshop,
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl<'a> Qsd<'a> {
    /// Starts a daemon in the workshop's folder.
    pub fn start(workshop: &'a Workshop) -> Self {
        let mut command = Command::new("qemu-storage-daemon");
        command
            .args(["--chardev", "stdio,id=monitor", "--monitor", "chardev=monitor"])
            .current_dir(workshop.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = spawn(&mut command)
            .unwrap_or_else(|e| panic!("qemu-storage-daemon of QEMU 10 is needed for this test: {e}"));
        let requests = child.stdin.take().unwrap();
        let replies = BufReader::new(child.stdout.take().unwrap());
        let mut daemon = Qsd { workshop, child, requests, replies };
        daemon.execute("qmp_capabilities", json!({}));
        daemon
    }

    /// Runs one command, which must succeed.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        self.workshop.note(&format!("# qemu-storage-daemon: {request}"));
        // In one piece: the daemon does not wait for the end of the line, and after `quit` it reads no more.
        let line = format!("{request}\n");
        self.requests.write_all(line.as_bytes()).expect("sending to qemu-storage-daemon");
        loop {
            let mut line = String::new();
            let read = self.replies.read_line(&mut line).expect("reading from qemu-storage-daemon");
            assert!(read > 0, "qemu-storage-daemon ended at {request}");
            let mut reply: Value = serde_json::from_str(&line).expect("QMP is JSON");
            if let Some(error) = reply.get("error") {
                panic!("qemu-storage-daemon: {request}: {error}");
            }
            if let Some(value) = reply.get_mut("return") {
                return value.take();
            }
        }
    }

    /// Opens a qcow2 image as `node`; it and its backing files are then locked by the daemon.
    pub fn open(&mut self, node: &str, image: &str, read_only: bool) {
        self.execute(
            "blockdev-add",
            json!({ "driver": "qcow2", "node-name": node, "read-only": read_only, "discard": "unmap",
                    "cache": { "no-flush": true },
                    "file": { "driver": "file", "filename": image, "discard": "unmap" } }),
        );
    }

    /// Exports a node over NBD under its own name, with bitmaps, and gives the socket's name.
    pub fn export(&mut self, node: &str, bitmaps: &[String], writable: bool) -> &'static str {
        // Relative to the folder, since a socket's whole path is limited to 107 bytes.
        let socket = "nbd.sock";
        self.execute("nbd-server-start", json!({ "addr": { "type": "unix", "data": { "path": socket } } }));
        self.execute(
            "block-export-add",
            json!({ "type": "nbd", "id": node, "node-name": node, "name": node,
                    "writable": writable, "bitmaps": bitmaps }),
        );
        socket
    }

    /// Ends the daemon in order: images are closed and bitmaps stored.
    pub fn quit(mut self) {
        self.execute("quit", json!({}));
        let status = self.child.wait().expect("waiting for qemu-storage-daemon");
        assert!(status.success(), "qemu-storage-daemon: {status}");
    }

    /// Ends the daemon at once, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("killing qemu-storage-daemon");
        self.child.wait().expect("waiting for qemu-storage-daemon");
    }
}

impl Drop for Qsd<'_> {
    fn drop(&mut self) {
        // After `quit` and `kill` there is nothing left to end, and both calls fail or return at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
