//go:build !linux

package ephemeral

func pin(int, string) {}
