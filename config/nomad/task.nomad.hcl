# What every job of Gofer's is made from: `[scheduler.nomad] job_template = "config/nomad/task.nomad.hcl"`.
#
# Gofer sets the job's id, type and metadata, the one group's count and what happens at a failure or a lost node, and the
# task's driver, program, environment, secrets, memory, cpu and stop signal. Everything else is kept as it is here. What would
# take those decisions from Gofer (`periodic`, `parameterized`, `update`, `migrate`, `multiregion`, `count`, …) is refused when
# the server starts, with the stanza and the rule.

job "template" {
  datacenters = ["*"]
  node_pool   = "default"
  priority    = 50

  constraint {
    attribute = "${attr.kernel.name}"
    value     = "linux"
  }

  group "work" {
    # Disk for what the task writes, and for its log; at least `scheduler.nomad.log.disk_mb`.
    ephemeral_disk {
      size = 500
    }

    # The one task without a `lifecycle` becomes the execution; others may run before, beside and after it.
    task "run" {
      # The driver's settings are kept where the execution uses this driver. Which one it uses says `scheduler.nomad`:
      # `image_driver` for tasks with an image, `host_driver` for those without.
      driver = "docker"

      config {
        image = "set-by-gofer"
        # A program ends by the signals that it sends itself, and what it leaves behind is reaped. Scripts get it in any case.
        init = true
      }

      # For tasks that ask for nothing.
      resources {
        cpu    = 200
        memory = 512
      }

      # For all tasks; the pipeline's own variables win.
      env {
        CI = "true"

        # For tasks that call `gofer`: where the nodes, or the images, have it; and your own authority for the server's certificate.
        # PATH          = "/opt/gofer/bin:/usr/local/bin:/usr/bin:/bin"
        # GOFER_CA_FILE = "/etc/gofer/ca.pem"
        # The same for all programs that use OpenSSL's variable.
        # SSL_CERT_FILE = "/etc/gofer/ca.pem"
      }
    }
  }
}
