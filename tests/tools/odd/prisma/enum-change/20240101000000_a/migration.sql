-- CreateEnum
CREATE TYPE "T" AS ENUM ('x');
