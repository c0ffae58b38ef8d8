package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"

	"golang.org/x/xerrors"

	"example.com/aiseed"
)

// input is the input of one run of the demo.
type input struct {
	environ []string // in the form of os.Environ
	from    string   // where environ is from, in words
	dsn     string   // of the database to make a schema in
	where   string   // on which server that is, in words
	colour  bool
}

// A story is one run of the demo: a server that starts again and again.
type story struct {
	screen
	in     input
	db     *database
	cfg    aiseed.Config
	store  *aiseed.Store
	audits []aiseed.AuditEntry
	warned map[string]bool // the warnings that were shown
	logged bool            // something was logged since endLog
	first  cost            // of the first start
	cast   cast
}

// run tells the story, and leaves the server as it was.
func run(ctx context.Context, in input, out io.Writer) error {
	db, err := openDatabase(ctx, in.dsn)
	if err != nil {
		return err
	}
	s := &story{screen: screen{out, in.colour}, in: in, db: db, warned: map[string]bool{}}
	err = s.tell(ctx)
	if err != nil && ctx.Err() != nil {
		err = xerrors.Errorf("the demo was interrupted: %w", context.Cause(ctx))
	}
	return errors.Join(err, db.drop(ctx))
}

func (s *story) tell(ctx context.Context) error {
	s.heading("aiseed: AI providers move from the environment into Postgres, once")
	s.say("A server calls the library when it starts. From then on the database is the truth: the environment can create a provider, and it can refuse to start, but by itself it never overwrites, resurrects or deletes one. Here such a server starts several times, on real tables.")
	s.table(
		[]string{"environment", s.in.from},
		[]string{"database", s.in.where},
		[]string{"schema", s.db.schema + ", dropped at the end"},
		[]string{"keyring", "one random AES-256 key, in memory only"},
	)
	if err := s.prepare(ctx); err != nil {
		return err
	}
	for _, scene := range scenes {
		s.heading(scene.title)
		if err := scene.play(s, ctx); err != nil {
			return err
		}
	}
	s.say("That was all. The schema %s is dropped now.", s.db.schema)
	return nil
}

// prepare does what a server does before it seeds.
func (s *story) prepare(ctx context.Context) (err error) {
	if s.cfg, err = aiseed.ParseEnviron(ctx, s.in.environ, s.logger()); err != nil {
		return err
	}
	s.endLog()
	key := make([]byte, aiseed.KeySize)
	_, _ = rand.Read(key) // never fails
	keyring, err := aiseed.NewKeyring(key)
	if err != nil {
		return err
	}
	s.store, err = aiseed.Open(ctx, s.db.pool, aiseed.StoreOptions{Keyring: keyring, Schema: s.db.schema, Migrate: true})
	return err
}

// start seeds, as a server does next, and returns the cost.
func (s *story) start(ctx context.Context, cfg aiseed.Config) (cost, error) {
	s.db.wire.take()
	err := aiseed.SeedAIProvidersFromEnv(ctx, s.store, cfg, aiseed.AuditorFunc(s.audit), s.logger())
	s.endLog()
	return s.db.wire.take(), err
}

// audit is the host's auditor.
func (s *story) audit(_ context.Context, entry aiseed.AuditEntry) error {
	s.audits = append(s.audits, entry)
	return nil
}
