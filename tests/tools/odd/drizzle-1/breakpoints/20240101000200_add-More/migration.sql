ALTER TABLE "a" ADD COLUMN "number" text;--> statement-breakpoint

-- Backfill: number the rows; they are few
INSERT INTO "a" ("number") VALUES ('one; --> two');