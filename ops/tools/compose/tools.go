//go:build tools

// Package compose pins the reader of docker-compose.yml that ops/tools.sh builds.
package compose

import _ "github.com/docker/compose/v5/cmd"
