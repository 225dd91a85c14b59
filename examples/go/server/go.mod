module larder-server

go 1.24.0

require larder v0.0.0

replace larder => ../../../bindings/go
