//! The files beside the pages: one style sheet, one script, one icon.

/// A file that the controller serves as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Path of its URL.
    pub path: &'static str,
    /// Value of the `Content-Type` header.
    pub content_type: &'static str,
    /// The file.
    pub body: &'static str,
    /// Digest of the body. Pages link to `path?v=version`, so a response to a request with this
    /// version may be kept by browsers for ever; the digest is also fit for an `ETag`.
    pub version: u64,
}

/// The style sheet.
pub const STYLE: Asset = asset(
    "/assets/portal.css",
    "text/css; charset=utf-8",
    concat!(
        include_str!("../assets/base.css"),
        include_str!("../assets/parts.css"),
        include_str!("../assets/deployment.css"),
    ),
);

/// The script.
pub const SCRIPT: Asset = asset(
    "/assets/portal.js",
    "text/javascript; charset=utf-8",
    include_str!("../assets/portal.js"),
);

/// The icon.
pub const ICON: Asset =
    asset("/assets/favicon.svg", "image/svg+xml", include_str!("../assets/favicon.svg"));

/// Every asset.
pub const ALL: [Asset; 3] = [STYLE, SCRIPT, ICON];

/// The asset with this path.
pub fn find(path: &str) -> Option<Asset> {
    ALL.into_iter().find(|asset| asset.path == path)
}

impl Asset {
    /// The address that pages link to.
    pub fn href(&self) -> String {
        format!("{}?v={:016x}", self.path, self.version)
    }
}

const fn asset(path: &'static str, content_type: &'static str, body: &'static str) -> Asset {
    Asset { path, content_type, body, version: fnv1a(body.as_bytes()) }
}

/// FNV-1a, 64 bits: tells builds apart, protects nothing.
const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut place = 0;
    while place < bytes.len() {
        hash = (hash ^ bytes[place] as u64).wrapping_mul(0x0100_0000_01b3);
        place += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_are_found_by_path_and_name_no_other_origin() {
        for asset in ALL {
            assert_eq!(find(asset.path), Some(asset));
            assert!(!asset.body.is_empty());
            assert!(!asset.body.replace("http://www.w3.org/", "").contains("http"));
        }
        assert_eq!(find("/assets/other"), None);
        // The policy allows images of this origin only, so the style sheet may carry none itself.
        assert!(!STYLE.body.contains("data:"));
    }

    #[test]
    fn the_digest_is_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
