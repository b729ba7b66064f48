//! bzImage -> ELF vmlinux. Contract: Linux' Documentation/arch/x86/boot.rst (setup header) and QEMU's PVH loader.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::compressed;

/// Offsets in the setup header.
const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// Type of the ELF note with the kernel's 32-bit entry, by the name "Xen".
const PVH_NOTE: u32 = 18;

/// Extracts the kernel's ELF file, which must have a PVH entry.
pub fn extract(bzimage: &Path, out: &Path) -> Result<()> {
    let image = fs::read(bzimage).with_context(|| format!("read {}", bzimage.display()))?;
    let elf = compressed::unpack(payload(&image)?).with_context(|| bzimage.display().to_string())?;
    ensure!(elf.starts_with(b"\x7fELF"), "the payload of {} is no ELF file", bzimage.display());
    ensure!(has_pvh_entry(&elf), "{} has no PVH entry (CONFIG_PVH)", bzimage.display());
    fs::write(out, elf).with_context(|| format!("write {}", out.display()))
}

fn payload(image: &[u8]) -> Result<&[u8]> {
    ensure!(image.get(MAGIC..MAGIC + 4) == Some(b"HdrS"), "not a bzImage");
    // The format says that 0 means 4.
    let setup = match image[SETUP_SECTS] {
        0 => 4,
        sectors => sectors as usize,
    };
    let start = (setup + 1) * 512 + number(image, PAYLOAD_OFFSET)?;
    image.get(start..start + number(image, PAYLOAD_LENGTH)?).context("the payload lies outside the image")
}

fn number(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..at + 4).context("the image is cut")?;
    Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
}

fn has_pvh_entry(elf: &[u8]) -> bool {
    // The name's size, anything for the descriptor's, the type, the name.
    elf.windows(16).step_by(4).any(|window| {
        window[..4] == 4u32.to_le_bytes()
            && window[8..12] == PVH_NOTE.to_le_bytes()
            && &window[12..16] == b"Xen\0"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(payload(b"short").is_err());
        let mut image = vec![0; 4096];
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_LENGTH] = 0xff;
        image[PAYLOAD_LENGTH + 1] = 0xff;
        assert!(payload(&image).unwrap_err().to_string().contains("outside"));
    }

    #[test]
    fn the_payload_is_found_behind_the_set_up_code() {
        let mut image = vec![0; 4096];
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[SETUP_SECTS] = 1;
        image[PAYLOAD_OFFSET] = 16;
        image[PAYLOAD_LENGTH] = 4;
        image[1024 + 16..1024 + 20].copy_from_slice(b"data");
        assert_eq!(payload(&image).unwrap(), b"data");
    }

    #[test]
    fn the_pvh_note_is_seen() {
        let mut elf = vec![0; 64];
        assert!(!has_pvh_entry(&elf));
        elf[16..20].copy_from_slice(&4u32.to_le_bytes());
        elf[24..28].copy_from_slice(&PVH_NOTE.to_le_bytes());
        elf[28..32].copy_from_slice(b"Xen\0");
        assert!(has_pvh_entry(&elf));
    }
}
