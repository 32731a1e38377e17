//! Partitions of AWS: commercial, GovCloud, China.

/// The partition of a region (AWS General Reference, "Amazon Resource Names").
pub(crate) fn of_region(region: &str) -> &'static str {
    match region {
        region if region.starts_with("us-gov-") => "aws-us-gov",
        region if region.starts_with("cn-") => "aws-cn",
        _ => "aws",
    }
}

/// The ARN of the instance that a permission set belongs to: both carry the instance's id.
pub(crate) fn instance_of(permission_set: &str) -> Option<String> {
    let (head, resource) = permission_set.split_once(":::permissionSet/")?;
    let (instance, _) = resource.split_once('/')?;
    (head.starts_with("arn:aws") && head.ends_with(":sso")).then(|| format!("{head}:::instance/{instance}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition() {
        for (region, partition) in [("eu-west-1", "aws"), ("us-gov-west-1", "aws-us-gov"), ("cn-north-1", "aws-cn")] {
            assert_eq!(of_region(region), partition);
            let set = format!("arn:{partition}:sso:::permissionSet/ssoins-1/ps-2");
            assert_eq!(instance_of(&set), Some(format!("arn:{partition}:sso:::instance/ssoins-1")));
        }
        assert_eq!(instance_of("arn:aws:iam::1:role/x"), None);
    }
}
