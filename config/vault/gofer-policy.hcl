# What Gofer may do in Vault or OpenBao, and nothing else:
#
#   vault policy write gofer config/vault/gofer-policy.hcl
#
# Change `secret` to the KV engine's path and `gofer` to `secrets.vault.prefix` if they are others. A test takes away each
# capability in turn and sees the matching call fail.

# Put, replace and read secrets.
path "secret/data/gofer/*" { capabilities = ["create", "update", "read"] }

# List secrets, and delete all versions of one.
path "secret/metadata/gofer/*" { capabilities = ["list", "delete"] }

# Learn how long the token lives and whether it is alive; have it renewed. Vault's policy `default` has these two as well.
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }

# Let `gofer server --check` say what is missing here.
path "sys/capabilities-self" { capabilities = ["update"] }
