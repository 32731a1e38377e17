//! Which files can hold the same keys, directly or through others: what must be read, replaced or kept together.

use std::sync::Arc;

use crate::store::file::DataFile;

/// Files in groups such that files of different groups cannot share keys; each group oldest first.
pub(crate) fn overlap_groups(files: &[Arc<DataFile>]) -> Vec<Vec<Arc<DataFile>>> {
    let mut by_time: Vec<&Arc<DataFile>> = files.iter().collect();
    by_time.sort_by_key(|file| file.time_min);
    let mut groups: Vec<Vec<Arc<DataFile>>> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for file in by_time {
        open.retain(|&group| groups[group].iter().any(|other| other.time_max >= file.time_min));
        let touching: Vec<usize> = open
            .iter()
            .copied()
            .filter(|&group| groups[group].iter().any(|other| other.may_share_keys(file)))
            .collect();
        match touching.split_first() {
            None => {
                open.push(groups.len());
                groups.push(vec![Arc::clone(file)]);
            }
            Some((&first, rest)) => {
                for &other in rest {
                    let moved = std::mem::take(&mut groups[other]);
                    groups[first].extend(moved);
                }
                open.retain(|group| !rest.contains(group));
                groups[first].push(Arc::clone(file));
            }
        }
    }
    groups.retain(|group| !group.is_empty());
    groups.iter_mut().for_each(|group| group.sort_by_key(|file| file.order));
    groups
}
