package aiseed

// desired is a provider as the environment wants it, without an id.
type desired struct {
	Provider
	variable       func(field string) string // see variableOf
	defaultBaseURL bool                      // the base URL is the documented default
	warnings       []Warning
	unsupported    bool
	legacy         bool
}

// variableOf returns the full name of the variable that sets a field, or would.
func (d desired) variableOf(field string) string {
	if field == fieldBaseURL && d.Bedrock != nil {
		field = fieldBedrockBaseURL
	}
	if d.variable == nil {
		return ""
	}
	return d.variable(field)
}
