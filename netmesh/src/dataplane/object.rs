//! The programs and maps to load: those of this binary, or of a file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::{Error, maps};

/// The object built from `netmesh-ebpf`.
static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netmesh-ebpf"));

/// No object of ours is nearly as large.
const MOST: u64 = 16 << 20;

/// An eBPF object.
#[derive(Clone, Debug)]
pub struct Object(Cow<'static, [u8]>);

impl Default for Object {
    /// This binary's.
    fn default() -> Self {
        Self(Cow::Borrowed(EMBEDDED))
    }
}

impl Object {
    /// Reads one from a file. Its maps must be those this binary expects: programs that take a value
    /// for a larger one would be refused by nobody.
    ///
    /// # Errors
    /// When it cannot be read, or is another object.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let fail = |source: io::Error| Error::Object {
            path: path.to_owned(),
            source,
        };
        let refuse = |text: String| fail(io::Error::new(io::ErrorKind::InvalidData, text));
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(fail)?;
        file.take(MOST + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > MOST {
            return Err(refuse(format!("it is larger than {} MiB", MOST >> 20)));
        }
        let object = aya_obj::Object::parse(&bytes).map_err(|error| refuse(error.to_string()))?;
        for shape in maps::SHAPES {
            let Some(map) = object.maps.get(shape.name) else {
                return Err(refuse(format!("it has no map {}", shape.name)));
            };
            let found = (map.map_type(), map.key_size(), map.value_size());
            if !shape.is(found) {
                let name = shape.name;
                return Err(refuse(format!("its map {name} is of another shape")));
            }
        }
        Ok(Self(Cow::Owned(bytes)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
