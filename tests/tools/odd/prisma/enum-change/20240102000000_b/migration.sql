-- AlterEnum
BEGIN;
CREATE TYPE "T_new" AS ENUM ('x', 'y');
ALTER TYPE "T" RENAME TO "T_old";
ALTER TYPE "T_new" RENAME TO "T";
DROP TYPE "T_old";
COMMIT;

-- CreateTable
CREATE TABLE "A" (t "T" DEFAULT 'y');
