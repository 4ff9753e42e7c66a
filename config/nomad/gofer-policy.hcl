# The least that Gofer's token must be allowed to, with `[scheduler.nomad]` as it is by default.
#
#   nomad acl policy apply -description "Gofer" gofer config/nomad/gofer-policy.hcl
#   nomad acl token create -name gofer -policy gofer -type client -t '{{ .SecretID }}' >/etc/gofer/nomad-token
#
# or, when Gofer itself runs as the job `config/nomad/gofer.nomad.hcl`, for that job's own identity, without any token:
#
#   nomad acl policy apply -namespace default -job gofer gofer config/nomad/gofer-policy.hcl

# One such block for each Nomad namespace that Gofer uses.
namespace "default" {
  capabilities = [
    "list-jobs",       # what there is, after a lost connection
    "read-job",        # states, and the event stream
    "submit-job",      # start, stop and remove, and `job_template`
    "read-fs",         # logs
    "alloc-lifecycle", # SIGKILL when a stop's grace is over

    # For `gofer task exec`, a shell in a running task; without them Gofer refuses it, and says so.
    # "alloc-exec",      # in tasks with an image
    # "alloc-node-exec", # besides, in tasks without one: raw_exec isolates nothing, so this is a shell on the node
  ]

  # Secret values on their way to the task that gets them. With another `job_prefix`, another path.
  variables {
    path "nomad/jobs/gofer-*" {
      capabilities = ["write", "destroy", "list"]
    }
  }
}

# For `gofer server --check`: which drivers the nodes have, and Nomad's version. And for logs on a node that is down: without
# `node:read` Gofer cannot tell one that is gone, and waits for them until Nomad deletes the job.
node {
  policy = "read"
}

agent {
  policy = "read"
}
