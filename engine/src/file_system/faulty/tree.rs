//! Files and directories: their current state, their durable state, and the changes between.
//!
//! Invariant: unless a sync of it failed, a file's durable bytes with all unsynced changes applied are its
//! current bytes; the same holds for a directory's names.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Id of a file or directory, independent of its names.
pub(super) type NodeId = u64;

const ROOT: NodeId = 0;

/// A change of a file's content.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, bytes: Arc<[u8]> },
    Length(u64),
}

impl Change {
    /// Returns the offset of the first changed byte.
    pub(super) fn start(&self) -> usize {
        match self {
            Self::Write { offset, .. } => *offset as usize,
            Self::Length(len) => *len as usize,
        }
    }

    /// Returns the length that the change requires.
    pub(super) fn end(&self) -> usize {
        match self {
            Self::Write { offset, bytes } => *offset as usize + bytes.len(),
            Self::Length(len) => *len as usize,
        }
    }

    pub(super) fn len_after(&self, len: usize) -> usize {
        match self {
            Self::Write { bytes, .. } if bytes.is_empty() => len,
            Self::Write { .. } => len.max(self.end()),
            Self::Length(len) => *len as usize,
        }
    }

    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        content.resize(self.len_after(content.len()), 0);
        if let Self::Write { .. } = self {
            self.apply_between(content, self.start(), self.end());
        }
    }

    /// Applies the change to the bytes `from..to`, which must exist and be changed by it.
    pub(super) fn apply_between(&self, content: &mut [u8], from: usize, to: usize) {
        let Some(target) = content.get_mut(from..to) else { return };
        match self {
            Self::Write { bytes, .. } => {
                let start = self.start();
                if let Some(source) = bytes.get(from - start..to - start) {
                    target.copy_from_slice(source);
                }
            }
            Self::Length(_) => target.fill(0),
        }
    }
}

/// A file's content.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    current: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    unsynced: Vec<Change>,
    /// Whether a sync failed: then `current` has changes that are neither durable nor unsynced.
    lossy: bool,
}

impl Content {
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        let bytes = Arc::new(bytes);
        Self { current: bytes.clone(), durable: bytes, ..Self::default() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.current
    }

    pub(super) fn len(&self) -> u64 {
        self.current.len() as u64
    }

    pub(super) fn durable_bytes(&self) -> &[u8] {
        &self.durable
    }

    pub(super) fn unsynced(&self) -> &[Change] {
        &self.unsynced
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.change(Change::Write { offset, bytes: bytes.into() });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len != self.len() {
            self.change(Change::Length(len));
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(Arc::make_mut(&mut self.current));
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        if self.lossy {
            let durable = Arc::make_mut(&mut self.durable);
            self.unsynced.iter().for_each(|change| change.apply(durable));
        } else {
            self.durable = self.current.clone();
        }
        self.unsynced.clear();
    }

    /// Drops the unsynced changes: they will never be durable.
    pub(super) fn lose_unsynced(&mut self) {
        self.lossy |= !self.unsynced.is_empty();
        self.unsynced.clear();
    }
}

/// A directory's names.
pub(super) type Names = BTreeMap<String, NodeId>;

/// A change of a directory's names.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Set(String, NodeId),
    Remove(String),
    Rename(String, String),
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut Names) {
        match self {
            Self::Set(name, node) => drop(names.insert(name.clone(), *node)),
            Self::Remove(name) => drop(names.remove(name)),
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

/// A directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    current: Names,
    durable: Names,
    unsynced: Vec<NameChange>,
}

impl Directory {
    pub(super) fn durable(names: Names) -> Self {
        Self { current: names.clone(), durable: names, unsynced: Vec::new() }
    }

    pub(super) fn durable_names(&self) -> &Names {
        &self.durable
    }

    pub(super) fn unsynced(&self) -> &[NameChange] {
        &self.unsynced
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        self.durable = self.current.clone();
        self.unsynced.clear();
    }

    /// Returns all nodes that have, had, or may have a name here after a crash.
    fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        let set = self.unsynced.iter().filter_map(|change| match change {
            NameChange::Set(_, node) => Some(*node),
            _ => None,
        });
        self.current.values().chain(self.durable.values()).copied().chain(set)
    }
}

/// A file or a directory. Clones share it until one is changed.
#[derive(Clone, Debug)]
pub(super) enum Node {
    File(Arc<Content>),
    Directory(Arc<Directory>),
}

impl Node {
    pub(super) fn file(content: Content) -> Self {
        Self::File(Arc::new(content))
    }

    pub(super) fn directory(directory: Directory) -> Self {
        Self::Directory(Arc::new(directory))
    }
}

/// All files and directories.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node::directory(Directory::default());
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1 }
    }
}

fn error<T>(kind: io::ErrorKind) -> io::Result<T> {
    Err(kind.into())
}

/// Returns a path's names from the root on.
fn names(path: &Path) -> io::Result<Vec<&str>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.to_str().ok_or(io::ErrorKind::InvalidInput)?),
            Component::ParentDir | Component::Prefix(_) => return error(io::ErrorKind::InvalidInput),
        }
    }
    Ok(names)
}

impl Tree {
    /// Returns a tree with the same names and each node changed by `change`.
    pub(super) fn map(&self, mut change: impl FnMut(&Node) -> Node) -> Self {
        let nodes = self.nodes.iter().map(|(&id, node)| (id, change(node))).collect();
        Self { nodes, next: self.next }
    }

    fn node(&self, path: &Path) -> io::Result<NodeId> {
        self.walk(&names(path)?)
    }

    fn walk(&self, names: &[&str]) -> io::Result<NodeId> {
        names.iter().try_fold(ROOT, |node, name| {
            self.names_of(node)?.get(*name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn names_of(&self, node: NodeId) -> io::Result<&Names> {
        match self.nodes.get(&node) {
            Some(Node::Directory(directory)) => Ok(&directory.current),
            Some(Node::File(_)) => error(io::ErrorKind::NotADirectory),
            None => error(io::ErrorKind::NotFound),
        }
    }

    fn directory_mut(&mut self, node: NodeId) -> io::Result<&mut Directory> {
        match self.nodes.get_mut(&node) {
            Some(Node::Directory(directory)) => Ok(Arc::make_mut(directory)),
            Some(Node::File(_)) => error(io::ErrorKind::NotADirectory),
            None => error(io::ErrorKind::NotFound),
        }
    }

    /// Returns the directory of a path, and its name there.
    fn parent<'a>(&self, path: &'a Path) -> io::Result<(NodeId, &'a str)> {
        let names = names(path)?;
        let (name, parents) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.walk(parents)?, name))
    }

    /// Returns the file with this name.
    pub(super) fn file(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.node(path)?;
        self.content(node).map(|_| node)
    }

    pub(super) fn content(&self, node: NodeId) -> io::Result<&Content> {
        match self.nodes.get(&node) {
            Some(Node::File(content)) => Ok(content),
            Some(Node::Directory(_)) => error(io::ErrorKind::IsADirectory),
            None => error(io::ErrorKind::NotFound),
        }
    }

    pub(super) fn content_mut(&mut self, node: NodeId) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(content)) => Ok(Arc::make_mut(content)),
            Some(Node::Directory(_)) => error(io::ErrorKind::IsADirectory),
            None => error(io::ErrorKind::NotFound),
        }
    }

    fn add(&mut self, directory: NodeId, name: &str, node: Node) -> io::Result<NodeId> {
        let id = self.next;
        self.directory_mut(directory)?.change(NameChange::Set(name.to_owned(), id));
        self.next += 1;
        self.nodes.insert(id, node);
        Ok(id)
    }

    /// Creates an empty file.
    pub(super) fn create(&mut self, path: &Path) -> io::Result<NodeId> {
        let (directory, name) = self.parent(path)?;
        self.add(directory, name, Node::file(Content::default()))
    }

    pub(super) fn create_directory(&mut self, path: &Path) -> io::Result<()> {
        let mut directory = ROOT;
        for name in names(path)? {
            directory = match self.names_of(directory)?.get(name) {
                Some(&there) => there,
                None => self.add(directory, name, Node::directory(Directory::default()))?,
            };
        }
        self.names_of(directory).map(|_| ())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self.names_of(self.node(path)?)?.keys().cloned().collect())
    }

    pub(super) fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.node(path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Renames a file or directory; returns its node.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<NodeId> {
        let node = self.node(from)?;
        let ((directory, old), (other, new)) = (self.parent(from)?, self.parent(to)?);
        if directory != other {
            return error(io::ErrorKind::Unsupported);
        }
        if let Some(&replaced) = self.names_of(directory)?.get(new) {
            if replaced == node {
                return Ok(node);
            }
            self.check_replaceable(node, replaced)?;
        }
        self.directory_mut(directory)?.change(NameChange::Rename(old.to_owned(), new.to_owned()));
        Ok(node)
    }

    fn check_replaceable(&self, node: NodeId, replaced: NodeId) -> io::Result<()> {
        match (self.nodes.get(&node), self.nodes.get(&replaced)) {
            (Some(Node::File(_)), Some(Node::Directory(_))) => error(io::ErrorKind::IsADirectory),
            (Some(Node::Directory(_)), Some(Node::File(_))) => error(io::ErrorKind::NotADirectory),
            (_, Some(Node::Directory(directory))) if !directory.current.is_empty() => {
                error(io::ErrorKind::DirectoryNotEmpty)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.file(from)?;
        let (directory, name) = self.parent(to)?;
        if self.names_of(directory)?.contains_key(name) {
            return error(io::ErrorKind::AlreadyExists);
        }
        self.directory_mut(directory)?.change(NameChange::Set(name.to_owned(), node));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let (directory, name) = self.parent(path)?;
        self.directory_mut(directory)?.change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    pub(super) fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        let node = self.node(path)?;
        self.directory_mut(node)?.sync();
        Ok(())
    }

    pub(super) fn sync_parent(&mut self, path: &Path) -> io::Result<()> {
        let (directory, _) = self.parent(path)?;
        self.directory_mut(directory)?.sync();
        Ok(())
    }

    /// Removes nodes that are not open and have no name, not even one that a crash may restore.
    pub(super) fn collect<T>(&mut self, open: &BTreeMap<NodeId, T>) {
        let mut kept = BTreeSet::from([ROOT]);
        let mut directories = vec![ROOT];
        while let Some(id) = directories.pop() {
            if let Some(Node::Directory(directory)) = self.nodes.get(&id) {
                directories.extend(directory.nodes().filter(|node| kept.insert(*node)));
            }
        }
        self.nodes.retain(|id, _| kept.contains(id) || open.contains_key(id));
    }

    /// Returns the bytes of all files that have a name or are open.
    pub(super) fn used<T>(&self, open: &BTreeMap<NodeId, T>) -> u64 {
        let mut counted = BTreeSet::new();
        self.for_each_file(&mut |_, node| counted.extend([node]));
        counted.extend(open.keys());
        counted.iter().filter_map(|&node| self.content(node).ok()).map(Content::len).sum()
    }

    /// Returns the paths of all files, sorted.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        self.for_each_file(&mut |path, _| files.push(path));
        files.sort();
        files
    }

    fn for_each_file(&self, act: &mut dyn FnMut(PathBuf, NodeId)) {
        let mut directories = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, directory)) = directories.pop() {
            for (name, &node) in self.names_of(directory).into_iter().flatten() {
                match self.nodes.get(&node) {
                    Some(Node::Directory(_)) => directories.push((path.join(name), node)),
                    Some(Node::File(_)) => act(path.join(name), node),
                    None => {}
                }
            }
        }
    }
}
