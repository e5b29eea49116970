//! Writes the table of cases as a first corpus: `seeds FOLDER`, a folder for each target below it.

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "corpus".into());
    for (target, name, bytes) in netmesh_common_fuzz::seeds() {
        let folder = std::path::Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}
