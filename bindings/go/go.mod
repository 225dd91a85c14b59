// No host and no domain: a path without a dot cannot be fetched by mistake from somebody else. Programs name this
// folder with a replace directive.
module larder

go 1.24.0
