//! The file systems on which a store can be opened: the interface, the operating system's, and one in memory
//! that loses, tears and fails on demand.

pub use crate::file_system::{
    Fault, FaultyFileSystem, FileCall, FileHandle, FileSystem, MAPPING_STEP, Mapping, Moment, OpenMode,
    RealFileSystem, Space, WritableMapping,
};
