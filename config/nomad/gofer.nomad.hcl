# Runs Gofer itself on Nomad, as the job `gofer`:
#
#   nomad acl policy apply -namespace default -job gofer gofer config/nomad/gofer-policy.hcl
#   nomad job run config/nomad/gofer.nomad.hcl
#
# It expects, on a client, the binary at /usr/local/bin/gofer, a user `gofer`, and a host volume `gofer` that belongs to that
# user, for the database, the objects and the keys. With PostgreSQL, S3 and Vault in the configuration below, the volume is not
# needed and the server may run anywhere.

job "gofer" {
  type = "service"

  group "server" {
    # One server at a time uses a database on a volume.
    count = 1

    network {
      port "api" {
        static = 8469
      }
    }

    volume "data" {
      type   = "host"
      source = "gofer"
    }

    update {
      # The old server lets go of the database before the new one wants it.
      max_parallel = 1
      canary       = 0
    }

    task "server" {
      # What Gofer starts are jobs of their own; it needs no rights on the node but to its volume.
      driver = "exec"
      user   = "gofer"

      config {
        command = "/usr/local/bin/gofer"
        args    = ["server", "--config", "${NOMAD_TASK_DIR}/gofer.toml"]
      }

      # The job's own identity, whose rights are those of the policy above; it is valid for as long as this allocation lives.
      identity {
        file = true
      }

      volume_mount {
        volume      = "data"
        destination = "/var/lib/gofer"
      }

      template {
        destination = "local/gofer.toml"
        data        = <<-TOML
          [server]
          listen = "0.0.0.0:8469"
          data_dir = "/var/lib/gofer"
          # Something in front of the server does TLS; or set `server.tls`.
          allow_insecure_listen = true

          [engine]
          api_addr = "http://{{ env "NOMAD_ADDR_api" }}"

          [scheduler]
          backend = "nomad"

          [scheduler.nomad]
          addresses = ["http://{{ env "attr.unique.network.ip-address" }}:4646"]
          token_file = "{{ env "NOMAD_SECRETS_DIR" }}/nomad_token"
        TOML
      }

      resources {
        cpu    = 500
        memory = 512
      }

      # Runs go on without the server; it has nothing to wait for but its calls under way.
      kill_timeout = "15s"
    }
  }
}
