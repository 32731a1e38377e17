"""What the tests do to a moto server through boto3: set an identity center up, and read it back."""

import json
import sys

import boto3

endpoint, command, path = sys.argv[1:4]
clients = {
    name: boto3.client(
        name,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    for name in ("sso-admin", "identitystore", "organizations")
}
sso, identities, organizations = clients.values()
instance = sso.list_instances()["Instances"][0]
arn, store = instance["InstanceArn"], instance["IdentityStoreId"]


def accounts():
    pages = organizations.get_paginator("list_accounts").paginate()
    return [account for page in pages for account in page["Accounts"]]


def permission_sets():
    pages = sso.get_paginator("list_permission_sets").paginate(InstanceArn=arn)
    return [found for page in pages for found in page["PermissionSets"]]


def assignments():
    found = []
    for account in accounts():
        for permission_set in permission_sets():
            pages = sso.get_paginator("list_account_assignments").paginate(
                InstanceArn=arn, AccountId=account["Id"], PermissionSetArn=permission_set
            )
            for page in pages:
                for one in page["AccountAssignments"]:
                    found.append([one["AccountId"], one["PermissionSetArn"], one["PrincipalType"], one["PrincipalId"]])
    return sorted(found)


def set_up(wanted):
    organizations.create_organization(FeatureSet="ALL")
    ids = [
        organizations.create_account(AccountName=f"account-{n:03}", Email=f"a{n}@example.com")["CreateAccountStatus"][
            "AccountId"
        ]
        for n in range(wanted["accounts"])
    ]
    # moto fails to make one without a session duration.
    created = sso.create_permission_set(Name="Readers", InstanceArn=arn, SessionDuration="PT2H", Description="d")
    permission_set = created["PermissionSet"]["PermissionSetArn"]
    principals = []
    for n in range(wanted["users"]):
        user = identities.create_user(
            IdentityStoreId=store,
            UserName=f"user-{n}",
            DisplayName=f"User {n}",
            Name={"GivenName": "User", "FamilyName": str(n)},
        )
        principals.append(["USER", f"user-{n}", user["UserId"]])
    for n in range(wanted["groups"]):
        group = identities.create_group(IdentityStoreId=store, DisplayName=f"group-{n}")
        principals.append(["GROUP", f"group-{n}", group["GroupId"]])
    # Some are there already, and have to stay.
    for account in ids[: wanted["existing"]]:
        kind, _, principal = principals[int(account) % len(principals)]
        sso.create_account_assignment(
            InstanceArn=arn,
            TargetId=account,
            TargetType="AWS_ACCOUNT",
            PermissionSetArn=permission_set,
            PrincipalType=kind,
            PrincipalId=principal,
        )
    return {"accounts": ids, "permission_set": permission_set, "principals": principals}


if command == "set-up":
    answer = set_up(json.loads(path))
else:
    answer = assignments()
json.dump(answer, sys.stdout)
