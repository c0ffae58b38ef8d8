package aiseed

// desired is a provider as the environment wants it, without an id.
type desired struct {
	Provider
	variable       func(field string) string // see variableOf
	defaultBaseURL bool                      // the base URL is the one of the documentation
	warnings       []Warning
	unsupported    bool
	legacy         bool
}

// variableOf is the full name of where a field comes from, or would.
func (d desired) variableOf(field string) string {
	if field == fieldBaseURL && d.Bedrock != nil {
		field = fieldBedrockBaseURL
	}
	if d.variable == nil {
		return ""
	}
	return d.variable(field)
}
