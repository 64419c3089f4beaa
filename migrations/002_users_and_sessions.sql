-- ============================================================================
-- Migration 002: users and sessions
--
-- A user is somebody who can log in. Users are separate from people: most people
-- never log in, and a user must survive a change of employer.
--
-- Neither table contains a secret that would be useful to a thief: passwords are
-- stored as a slow hash that the application computes, session tokens as SHA-256
-- (they are random, so a fast hash is enough).
-- ============================================================================

CREATE TABLE users (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id      uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    person_id      bigint UNIQUE REFERENCES people (id) ON DELETE SET NULL,
    email          text NOT NULL CHECK (email = lower(btrim(email)) AND email LIKE '%_@_%'),
    password_hash  text,
    role           text NOT NULL DEFAULT 'viewer' CHECK (role IN ('viewer', 'editor', 'admin')),
    disabled_at    timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT users_email_key UNIQUE (email)
);

CREATE TABLE sessions (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    token_hash    bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    client_ip     inet,
    user_agent    text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,

    CHECK (expires_at > created_at)
);

CREATE INDEX sessions_user_id_idx ON sessions (user_id);

-- For the clean-up below, which only looks for the oldest sessions.
CREATE INDEX sessions_expires_at_idx ON sessions (expires_at);

CREATE FUNCTION delete_expired_sessions(batch_size integer DEFAULT 1000)
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    deleted integer;
BEGIN
    -- SKIP LOCKED: if every replica runs this from a timer, they share the work
    -- instead of queueing for the same rows.
    WITH expired AS (
        SELECT id
        FROM sessions
        WHERE expires_at < now()
        ORDER BY expires_at
        LIMIT batch_size
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM sessions USING expired WHERE sessions.id = expired.id;

    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;

COMMENT ON TABLE users IS 'Who can log in.';
COMMENT ON COLUMN users.public_id IS 'The identifier that leaves this system, so that ids cannot be counted.';
COMMENT ON COLUMN users.password_hash IS 'In PHC string format; NULL with single sign-on.';

COMMENT ON TABLE sessions IS 'One row for each browser that is logged in.';
COMMENT ON COLUMN sessions.token_hash IS 'SHA-256 of the cookie. The cookie itself is never stored.';

COMMENT ON FUNCTION delete_expired_sessions(integer)
    IS 'Delete up to batch_size expired sessions and return how many; call again until it returns 0.';
