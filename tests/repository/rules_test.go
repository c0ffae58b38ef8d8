package repository

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/testkit"
)

const (
	rulesPage    = "docs/rules.md"
	rulesColumns = 118
	updateRules  = "go test ./tests/repository -run TestRules -update"
)

var (
	ruleNumber = regexp.MustCompile(`[A-Z]\d+`)
	ruleStart  = regexp.MustCompile(`^\*\*([A-Z]\d+)\.\*\* `)
	// A test proves the rules that its name begins with, as in TestA3_A4_Order. It also proves
	// those at the beginning of a comment or a string in the test or right above it, as in
	// "A3, A4: the order".
	rulesOfName = regexp.MustCompile(`^(?:Test|Fuzz)((?:[A-Z]\d+_)*)`)
	rulesOfText = regexp.MustCompile(`^([ENCRLASOFQ]\d{1,2}(?:, [ENCRLASOFQ]\d{1,2})*)(?:[:.] |$)`)
)

// The page of rules lists all existing tests of each rule, and the tests name only existing rules.
func TestRules(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(rulesPage)
	require.NoError(t, err)
	tests := testsOfRules(t)
	paragraphs := strings.Split(strings.TrimSpace(string(page)), "\n\n")
	update := testkit.Updating()
	open, rules := "", map[string]bool{} // open is a rule whose list of tests has not come yet
	for i, paragraph := range paragraphs {
		if m := ruleStart.FindStringSubmatch(paragraph); m != nil {
			require.Empty(t, open, "%s: this rule has no paragraph that begins with Tests:", rulesPage)
			require.NotContains(t, rules, m[1], "%s: this rule is there twice", rulesPage)
			open, rules[m[1]] = m[1], true
		}
		if open != "" && strings.HasPrefix(paragraph, "Tests:") {
			assert.NotEmpty(t, tests[open], "no test names %s: write one, or take the rule out of %s", open, rulesPage)
			paragraphs[i] = listOfTests(tests[open])
			if !update {
				assert.Equal(t, paragraphs[i], paragraph, "%s does not list the tests that name %s; run: %s", rulesPage, open, updateRules)
			}
			open = ""
		}
	}
	require.Empty(t, open, "%s: this rule has no paragraph that begins with Tests:", rulesPage)
	for rule, names := range tests {
		assert.True(t, rules[rule], "%s has no rule %s: write it, or correct the name or the comment in %s", rulesPage, rule, strings.Join(names, ", "))
	}
	if update {
		require.NoError(t, os.WriteFile(rulesPage, []byte(strings.Join(paragraphs, "\n\n")+"\n"), 0o600))
	}
}

// testsOfRules returns the sorted names of the tests of each rule.
func testsOfRules(t *testing.T) map[string][]string {
	t.Helper()
	tests := map[string][]string{}
	forEachTest(t, func(file *ast.File, f *ast.FuncDecl) {
		for _, rule := range rulesOfTest(file, f) {
			tests[rule] = append(tests[rule], f.Name.Name)
		}
	})
	for rule := range tests {
		slices.Sort(tests[rule])
		tests[rule] = slices.Compact(tests[rule])
	}
	return tests
}

// forEachTest visits the functions of all test files of the repository.
func forEachTest(t *testing.T, visit func(*ast.File, *ast.FuncDecl)) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
				visit(file, f)
			}
		}
		return nil
	}))
}

func rulesOfTest(file *ast.File, f *ast.FuncDecl) (rules []string) {
	name := rulesOfName.FindStringSubmatch(f.Name.Name)
	if name == nil {
		return nil
	}
	rules = ruleNumber.FindAllString(name[1], -1)
	read := func(text string) {
		if m := rulesOfText.FindStringSubmatch(strings.Join(strings.Fields(text), " ")); m != nil {
			rules = append(rules, ruleNumber.FindAllString(m[1], -1)...)
		}
	}
	for _, comment := range file.Comments {
		if comment == f.Doc || f.Pos() <= comment.Pos() && comment.End() <= f.End() {
			read(comment.Text())
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
			value, _ := strconv.Unquote(text.Value)
			read(value)
		}
		return true
	})
	return rules
}

// listOfTests returns the "Tests:" line of a rule, wrapped.
func listOfTests(names []string) string {
	done, line := "", "Tests:"
	for word := range strings.FieldsSeq("`" + strings.Join(names, "`, `") + "`") {
		if len(line)+1+len(word) > rulesColumns {
			done, line = done+line+"\n", word
			continue
		}
		line += " " + word
	}
	return done + line
}
