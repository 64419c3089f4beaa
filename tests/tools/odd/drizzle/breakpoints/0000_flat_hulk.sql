DO $$ BEGIN
 CREATE TYPE "budget_period" AS ENUM('weekly', 'monthly');
EXCEPTION
 WHEN duplicate_object THEN null;
END $$;
--> statement-breakpoint
CREATE TABLE IF NOT EXISTS "a" (
	"id" serial PRIMARY KEY NOT NULL,
	"period" "budget_period" DEFAULT 'weekly' NOT NULL
);
--> statement-breakpoint
CREATE TABLE "b" ("a_id" integer NOT NULL)--> statement-breakpoint
DO $$ BEGIN
 ALTER TABLE "b" ADD CONSTRAINT "b_a_id_a_id_fk" FOREIGN KEY ("a_id") REFERENCES "a"("id") ON DELETE no action ON UPDATE no action;
EXCEPTION
 WHEN duplicate_object THEN null;
END $$;
