//! The ready lists of licences.

use super::Lists;

const CORE: &[&str] = &["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "PSF-2.0"];
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "AFL-3.0",
    "Apache-1.1",
    "Artistic-2.0",
    "BlueOak-1.0.0",
    "BSD-1-Clause",
    "BSD-2-Clause-Patent",
    "BSD-2-Clause-Views",
    "BSD-3-Clause-Clear",
    "BSD-3-Clause-LBNL",
    "BSD-3-Clause-Open-MPI",
    "BSD-4-Clause",
    "BSL-1.0",
    "bzip2-1.0.6",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC0-1.0",
    "CNRI-Python",
    "CNRI-Python-GPL-Compatible",
    "curl",
    "FTL",
    "HPND",
    "ICU",
    "IJG",
    "Libpng",
    "libpng-2.0",
    "libtiff",
    "MIT-0",
    "MIT-CMU",
    "MIT-Modern-Variant",
    "MS-PL",
    "MulanPSL-2.0",
    "NCSA",
    "OFL-1.1",
    "OpenSSL",
    "PostgreSQL",
    "Python-2.0",
    "Python-2.0.1",
    "SMLNJ",
    "SSLeay-standalone",
    "TCL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "UPL-1.0",
    "W3C",
    "WTFPL",
    "X11",
    "Zlib",
    "zlib-acknowledgement",
    "ZPL-2.0",
    "ZPL-2.1",
];
const WEAK: &[&str] = &[
    "LGPL-*",
    "MPL-1.1",
    "MPL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "CDDL-1.0",
    "CDDL-1.1",
    "CECILL-C",
    "EUPL-1.1",
    "EUPL-1.2",
    "Artistic-1.0",
    "Artistic-1.0-Perl",
    "GPL-2.0-only WITH Classpath-exception-2.0",
    "GPL-2.0-or-later WITH Classpath-exception-2.0",
    "GPL-3.0-or-later WITH GCC-exception-3.1",
];
const STRONG: &[&str] = &["GPL-*", "CECILL-2.1"];
const NETWORK: &[&str] = &["AGPL-*", "SSPL-*", "LicenseRef-Commons-Clause*"];

/// The lists of a profile; `None` for a name that is none.
pub(super) fn lists(profile: &str) -> Option<Lists> {
    let join = |lists: &[&[&str]]| lists.concat().iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    Some(match profile {
        "strict" => Lists {
            approved: join(&[CORE]),
            restricted: join(&[&["LGPL-*", "MPL-2.0"]]),
            prohibited: join(&[STRONG, NETWORK]),
        },
        "permissive" => Lists {
            approved: join(&[CORE, PERMISSIVE]),
            restricted: join(&[WEAK]),
            prohibited: join(&[STRONG, NETWORK]),
        },
        "weak-copyleft" => Lists {
            approved: join(&[CORE, PERMISSIVE, WEAK]),
            restricted: join(&[STRONG]),
            prohibited: join(&[NETWORK]),
        },
        _ => return None,
    })
}
