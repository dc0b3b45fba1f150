//! The order of the layers, kept by a test: dependencies run downwards only, `unsafe` and file access stay in
//! their two places, and the command uses nothing but the public API.
//!
//! The sources are read as tokens, not compiled: paths such as `crate::image::Map`, groups in `use` lines,
//! `super::` chains and names that `lib.rs` re-exports at the root are all resolved to the layer they lead to.

#![allow(clippy::unwrap_used)] // what cannot be read here fails the test

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first. A layer may use itself and those before it.
const LAYERS: [&str; 13] = [
    "recovery",
    "error",
    "memory",
    "format",
    "storage",
    "image",
    "bitmap",
    "disk",
    "job",
    "transaction",
    "repository",
    "capi",
    "fuzzing",
];

/// The layer of the command, which stands beside the list: it sees only the library's root.
const COMMAND: &str = "bin";

#[test]
fn dependencies_run_downwards_only() {
    let sources = sources();
    let root = root_names(&sources);
    let mut violations = Vec::new();
    for source in &sources {
        violations.extend(upward_edges(source, &root));
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn unsafe_stands_in_two_places_only() {
    let violations: Vec<String> = sources().iter().flat_map(unsafe_outside_its_places).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn files_are_reached_through_storage_only() {
    let violations: Vec<String> = sources().iter().flat_map(file_access_outside_storage).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn the_checker_finds_planted_upward_edges() {
    let lib =
        Source::new("lib.rs", "mod image; pub use image::{Disk, map::Run as MapRun}; pub use error::Error;");
    let root = root_names(&[lib]);
    let planted = [
        ("format/header.rs", "use crate::storage::Storage;"),
        ("format/header.rs", "use crate::{error::Error, image};"),
        ("format/mod.rs", "fn f() -> crate::storage::Storage {}"),
        ("storage/file.rs", "use super::super::job;"),
        ("storage/mod.rs", "use super::bitmap::Bits;"),
        ("storage/file.rs", "use crate::MapRun;"),
        ("storage/file.rs", "use crate::{Disk, Error};"),
        ("storage/file.rs", "macro_rules! m { () => { $crate::image::open() } }"),
        ("image/mod.rs", "mod tests { use super::super::bitmap; }"),
        ("error.rs", "use crate::format::Header;"),
        ("error.rs", "use crate::Unheard;"),
        ("storage/mod.rs", "use super::*;"),
        ("job/mod.rs", "/* { */ use crate::transaction::Transaction;"),
        ("elsewhere/mod.rs", "fn f() {}"),
        ("bin/holstein/main.rs", "use holstein::image::Map;"),
        ("bin/holstein/main.rs", "use holstein::{Disk, capi};"),
    ];
    for (path, text) in planted {
        assert_ne!(upward_edges(&Source::new(path, text), &root), [""; 0], "not found: {text} in {path}");
    }
}

#[test]
fn the_checker_lets_downward_edges_pass() {
    let lib = Source::new("lib.rs", "pub use image::{Disk, Map}; pub use error::{Error, ErrorKind};");
    let root = root_names(&[lib]);
    let allowed = [
        ("format/header.rs", "use crate::error::{Error, ErrorKind}; use super::geometry::Geometry;"),
        ("image/mod.rs", "use crate::{format::l2, storage::{file::File, Storage}, Error};"),
        ("image/mod.rs", "mod tests { use super::bitmap; }"),
        ("error.rs", "mod tests { use super::*; }"),
        ("error.rs", "// use crate::image\n const A: &str = \"crate::image\"; const B: char = '\"';"),
        ("storage/sys.rs", "const A: &str = r#\"use crate::job;\"#; fn f<'a>(x: &'a str) {}"),
        ("storage/mod.rs", "pub(crate) struct X; pub(in crate::storage) struct Y;"),
        ("capi/disk.rs", "use crate::{Disk, transaction::Transaction}; use super::boundary::guard;"),
        ("bin/holstein/main.rs", "use holstein::{Disk, Error}; use crate::args::ImageArgs;"),
    ];
    for (path, text) in allowed {
        assert_eq!(upward_edges(&Source::new(path, text), &root), [""; 0], "{text} in {path}");
    }
}

#[test]
fn the_checker_finds_planted_unsafe_code_and_file_access() {
    let in_image = |text| Source::new("image/open.rs", text);
    assert_eq!(unsafe_outside_its_places(&in_image("fn f() { unsafe { g() } }")).len(), 1);
    assert_eq!(unsafe_outside_its_places(&in_image("// unsafe\n#![deny(unsafe_code)]")).len(), 0);
    assert_eq!(unsafe_outside_its_places(&Source::new("storage/sys.rs", "unsafe { g() }")).len(), 0);
    assert_eq!(unsafe_outside_its_places(&Source::new("storage/file.rs", "unsafe { g() }")).len(), 1);
    assert_eq!(
        unsafe_outside_its_places(&Source::new("capi/disk.rs", "unsafe extern \"C\" fn g() {}")).len(),
        0
    );

    for text in [
        "use std::fs;",
        "use std::{io, fs::File};",
        "fn f() { std::fs::read(\"x\"); }",
        "use std::os::unix::fs::FileExt;",
        "use libc::c_int;",
        "use nix::unistd;",
    ] {
        assert_eq!(file_access_outside_storage(&in_image(text)).len(), 1, "not found: {text}");
        assert_eq!(file_access_outside_storage(&Source::new("storage/file.rs", text)).len(), 0, "{text}");
    }
    for text in ["use std::os::unix::ffi::OsStrExt;", "use std::os::fd::BorrowedFd;", "use std::{io, path};"]
    {
        assert_eq!(file_access_outside_storage(&in_image(text)).len(), 0, "{text}");
    }
    assert_eq!(file_access_outside_storage(&in_image("mod tests { use std::fs; }")).len(), 0);
    assert_eq!(file_access_outside_storage(&Source::new("capi/disk.rs", "use libc::c_int;")).len(), 0);
    assert_eq!(file_access_outside_storage(&Source::new("capi/disk.rs", "use std::fs;")).len(), 1);
    assert_eq!(file_access_outside_storage(&Source::new("bin/holstein/demo.rs", "use std::fs;")).len(), 0);
    assert_eq!(file_access_outside_storage(&Source::new("bin/holstein/map.rs", "use std::fs;")).len(), 1);
}

// ---- the rules -----------------------------------------------------------------------------------------

/// Every path of `source` that leads to a layer above its own.
fn upward_edges(source: &Source, root: &BTreeMap<String, String>) -> Vec<String> {
    if source.is("lib.rs") {
        return Vec::new(); // the root only declares and re-exports
    }
    let layer = source.layer();
    if layer == COMMAND {
        let inside = |path: &&PathUse| path.segments[0] == "holstein" && path.leads_to(&LAYERS);
        return source.paths().iter().filter(inside).map(|path| source.violation(path)).collect();
    }
    let Some(height) = height(&layer) else {
        return vec![format!("src/{}: {layer} has no place among the layers", source.path)];
    };
    let mut edges = Vec::new();
    for path in source.paths() {
        let Some(name) = source.below_root(&path) else { continue };
        let target = root.get(&name).unwrap_or(&name);
        let downwards = self::height(target).is_some_and(|target| target <= height);
        if !downwards {
            edges.push(source.violation(&path));
        }
    }
    edges
}

fn height(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|name| *name == layer)
}

fn unsafe_outside_its_places(source: &Source) -> Vec<String> {
    if source.is("storage/sys.rs") || source.layer() == "capi" {
        return Vec::new();
    }
    let found = source.tokens.iter().filter(|token| token.text == "unsafe");
    found.map(|token| format!("src/{}:{}: unsafe", source.path, token.line)).collect()
}

fn file_access_outside_storage(source: &Source) -> Vec<String> {
    let layer = source.layer();
    let demo = source.path.starts_with("bin/holstein/demo");
    // The command's own input is no image, nor is what the system says of the process.
    let inputs = [
        "bin/holstein/bitmap/steps.rs",
        "bin/holstein/signals.rs",
        "bin/holstein/transaction/mod.rs",
        "bin/holstein/write.rs",
    ];
    let input = inputs.iter().any(|file| source.is(file));
    if layer == "storage" || source.path.ends_with("tests.rs") {
        return Vec::new();
    }
    let reaches_files = |path: &&PathUse| {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["std", "fs", ..] => !demo && !input,
            ["std", "os", "unix", "ffi", ..] => false,
            ["std", "os", "unix" | "linux", ..] => !demo,
            ["libc", ..] => layer != "capi",
            ["nix" | "rustix", ..] => true,
            _ => false,
        }
    };
    let outside_tests = |path: &&PathUse| path.modules.first().is_none_or(|module| module != "tests");
    let paths = source.paths();
    paths.iter().filter(reaches_files).filter(outside_tests).map(|path| source.violation(path)).collect()
}

/// What `lib.rs` re-exports at the root: each name with the layer it comes from.
fn root_names(sources: &[Source]) -> BTreeMap<String, String> {
    let lib = sources.iter().find(|source| source.is("lib.rs"));
    let paths = lib.map(Source::paths).unwrap_or_default();
    let mut names = BTreeMap::new();
    for path in paths {
        let segments: Vec<&String> = path.segments.iter().filter(|s| *s != "crate" && *s != "self").collect();
        if let [layer, .., _] = segments.as_slice() {
            names.insert(path.name.clone(), layer.to_string());
        }
    }
    names
}

// ---- reading sources -----------------------------------------------------------------------------------

/// One file below `src/`.
struct Source {
    /// Its path below `src/`.
    path: String,
    tokens: Vec<Token>,
}

struct Token {
    text: String,
    line: usize,
}

/// A path as it stands in a source; a group in braces gives one for each member.
#[derive(Clone)]
struct PathUse {
    segments: Vec<String>,
    /// The name it brings in: the last segment, or its alias.
    name: String,
    /// The modules in the file that are open where it stands.
    modules: Vec<String>,
    line: usize,
}

impl PathUse {
    fn leads_to(&self, layers: &[&str]) -> bool {
        self.segments.get(1).is_some_and(|second| layers.contains(&second.as_str()))
    }
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_string(), tokens: tokens(text) }
    }

    fn is(&self, path: &str) -> bool {
        self.path == path
    }

    /// The folder or file just below `src/`.
    fn layer(&self) -> String {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs").to_string()
    }

    /// The module that the file is: `storage/file.rs` is `[storage, file]`.
    fn module(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').map(str::to_string).collect()
    }

    /// The name just below the crate's root that a path leads to, if it leaves the module it stands in.
    fn below_root(&self, path: &PathUse) -> Option<String> {
        let supers = path.segments.iter().take_while(|segment| *segment == "super").count();
        if path.segments[0] == "crate" {
            return path.segments.get(1).cloned();
        }
        if supers == 0 {
            return None;
        }
        let mut module = self.module();
        module.extend(path.modules.iter().cloned());
        module.truncate(module.len().saturating_sub(supers));
        module.extend(path.segments[supers..].iter().cloned());
        module.first().cloned()
    }

    fn violation(&self, path: &PathUse) -> String {
        format!("src/{}:{}: {} must not use {}", self.path, path.line, self.layer(), path.segments.join("::"))
    }

    /// All paths of the file that have two segments or more.
    fn paths(&self) -> Vec<PathUse> {
        let mut found = Vec::new();
        let mut open: Vec<Option<String>> = Vec::new(); // for each brace, the module that it opens
        let mut at = 0;
        while let Some(token) = self.tokens.get(at) {
            match token.text.as_str() {
                "{" => {
                    let is_module = at >= 2 && self.tokens[at - 2].text == "mod";
                    open.push(is_module.then(|| self.tokens[at - 1].text.clone()));
                }
                "}" => drop(open.pop()),
                text if is_name(text) => {
                    let modules: Vec<String> = open.iter().flatten().cloned().collect();
                    let start =
                        PathUse { segments: Vec::new(), name: String::new(), modules, line: token.line };
                    at = self.path_at(at, start, &mut found);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        found.retain(|path| path.segments.len() > 1);
        found
    }

    /// Reads the path that goes on at token `at`, adds it (or its group's members) to `found`, and gives the
    /// position behind it.
    fn path_at(&self, mut at: usize, mut path: PathUse, found: &mut Vec<PathUse>) -> usize {
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        loop {
            if text(at) == "{" {
                at += 1;
                while !["}", ""].contains(&text(at)) {
                    at = self.path_at(at, path.clone(), found);
                    if text(at) == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            if let Some(token) = self.tokens.get(at) {
                path.line = token.line;
                path.name.clone_from(&token.text);
                path.segments.push(token.text.clone());
            }
            at += 1;
            let goes_on = text(at) == "::" && (is_name(text(at + 1)) || ["{", "*"].contains(&text(at + 1)));
            if !goes_on {
                break;
            }
            at += 1;
        }
        if text(at) == "as" && is_name(text(at + 1)) {
            path.name = text(at + 1).to_string();
            at += 2;
        }
        found.push(path);
        at
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Splits Rust source into names, `::` and single characters; comments, strings and characters are left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (length, is_token) = match first {
            _ if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            _ if rest.starts_with("/*") => (block_comment(rest), false),
            _ if raw_string(rest).is_some() => (raw_string(rest).unwrap_or(rest.len()), false),
            '"' => (quoted(rest, '"'), false),
            '\'' => (character_or_lifetime(rest), false),
            _ if rest.starts_with("::") => (2, true),
            _ if name > 0 => (name, true),
            _ => (first.len_utf8(), !first.is_whitespace()),
        };
        if is_token {
            tokens.push(Token { text: rest[..length].to_string(), line });
        }
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let body =
        text.strip_prefix("br").or_else(|| text.strip_prefix("cr")).or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    let inner = body[hashes..].strip_prefix('"')?;
    Some(text.len() - inner.len() + inner.find(&end).map_or(inner.len(), |at| at + end.len()))
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn character_or_lifetime(text: &str) -> usize {
    let mut characters = text.chars().skip(1);
    match (characters.next(), characters.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted(text, '\''),
        _ => 1,
    }
}

fn sources() -> Vec<Source> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&folder, &mut files);
    let sources: Vec<Source> = files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(&folder).unwrap().to_str().unwrap();
            Source::new(path, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(sources.iter().any(|source| source.is("lib.rs")), "no sources below {}", folder.display());
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
