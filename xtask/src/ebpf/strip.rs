//! Removes the debug information from a kernel object and keeps its BTF.
//!
//! The DWARF sections are most of the linker's output and name the build folder; nothing at run time reads them. GNU
//! strip does not understand the object, and llvm-strip would be one more thing to install.

use anyhow::{Context, Result};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// The same object without the sections `.debug_*` and their relocations.
pub(super) fn strip_debug_info(linked: &[u8]) -> Result<Vec<u8>> {
    let mut object = Builder::read(linked).context("the linked kernel programs are not an ELF object")?;
    for section in &mut object.sections {
        let name = section.name.to_string();
        section.delete = name.starts_with(".debug_") || name.starts_with(".rel.debug_");
    }
    object.delete_orphans();
    // LLVM keeps the names of sections and symbols in one table; the writer wants one of its own for sections.
    if !object.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = object.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    object.write(&mut stripped).context("write the stripped kernel object")?;
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSection};

    use super::*;

    /// An object as the linker leaves it, small: a program, its BTF and its debug information.
    fn linked() -> Vec<u8> {
        use object::{Architecture, BinaryFormat, Endianness, SectionKind, write};
        let mut object = write::Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        for (name, kind) in
            [("cgroup/connect4", SectionKind::Text), (".BTF", SectionKind::Other), (".debug_info", SectionKind::Debug)]
        {
            let section = object.add_section(Vec::new(), name.as_bytes().to_vec(), kind);
            object.append_section_data(section, name.as_bytes(), 8);
        }
        object.write().unwrap()
    }

    #[test]
    fn keeps_programs_and_btf_and_nothing_of_dwarf() {
        let stripped = strip_debug_info(&linked()).unwrap();

        let file = object::File::parse(&*stripped).unwrap();
        assert!(file.section_by_name(".debug_info").is_none());
        for kept in ["cgroup/connect4", ".BTF"] {
            assert_eq!(file.section_by_name(kept).unwrap().data().unwrap(), kept.as_bytes());
        }
    }

    #[test]
    fn stripping_twice_changes_nothing() {
        let once = strip_debug_info(&linked()).unwrap();
        assert_eq!(strip_debug_info(&once).unwrap(), once);
    }
}
