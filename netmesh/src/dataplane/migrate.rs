//! From an older layout to this one, under traffic.
//!
//! ```text
//!   a folder of this layout upon the older one's maps and links ─► tables from the RIB
//!      ─► the programs, as in an upgrade ─► no program runs on the old tables
//!      ─► what their slots have counted ─► the older folder goes
//! ```
//! A failure leaves the older instance as it was. As long as both folders are there, nothing but
//! another upgrade opens either of them: it takes this up wherever a killed one has left it.

use netmesh_common::lines::Table;

use super::object::Object;
use super::older::Older;
use super::pin::{self, Folder, NamespaceId};
use super::{Error, Instance};

impl Instance {
    /// Takes over the instance of an older layout that serves a namespace, if there is one, and puts
    /// this binary's programs on every hook of it. Routes, ports, next hops and counters stay.
    ///
    /// # Errors
    /// When its layout is not known, a table cannot be made, or the upgrade fails: the older
    /// instance goes on as it was.
    pub fn take_over(namespace: NamespaceId) -> Result<Option<Self>, Error> {
        pin::ensure_bpffs()?;
        while let Some((layout, folder)) = Folder::find_other(namespace)? {
            let Some(older) = Older::open(layout, folder)? else {
                continue;
            };
            let folder = Folder::of(older.name(), namespace)?;
            let begun = folder.path.exists();
            folder.build(|new| older.fill(new, namespace))?;
            let switched = Self::fill_and_switch(&folder, namespace);
            let mut instance = match switched {
                Ok(instance) => instance,
                // Hooks that run old and new programs need the tables of both.
                Err(error @ Error::HalfUpgraded { .. }) => return Err(error),
                Err(error) if begun => return Err(error),
                Err(error) => {
                    folder.remove()?;
                    return Err(error);
                }
            };
            // The new programs are at work: from here on a failure leaves both folders, and the next
            // upgrade takes it up.
            instance.take_tallies(&older)?;
            older.forget()?;
            return Ok(Some(instance));
        }
        Ok(None)
    }

    fn fill_and_switch(folder: &Folder, namespace: NamespaceId) -> Result<Self, Error> {
        // It says of itself that its tables are to be made from the RIB.
        let Some(mut instance) = Self::open_folder(folder.clone())? else {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(pin::failed("cannot lock", &folder.path, source));
        };
        instance.upgrade(namespace, &Object::default())?;
        Ok(instance)
    }

    /// What the slots of the older tables have counted, once no program asks these any more.
    fn take_tallies(&mut self, older: &Older) -> Result<(), Error> {
        self.wait_for_readers()?;
        for memory in older.tables()? {
            if let Some(table) = Table::open(memory.words()) {
                self.take_up_foreign(&table)?;
            }
        }
        Ok(())
    }
}
